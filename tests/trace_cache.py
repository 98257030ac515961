"""Caches `export.trace`, which takes seconds and depends only on kind and config: each is traced once and then cloned.

Another test proves that a trace is always the same, by making a folder's bytes again in another process. A clone is the
same graph, but nodes added later get other numbers: where bytes are compared, use `uncached`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import onnx_ir as ir
import pytest
from gpt2_export import export_graphs
from gpt2_export.graphs import export, kinds
from gpt2_export.graphs.export import Kind
from gpt2_model import GPT2Config

_trace = export.trace
_traces: dict[tuple[Kind, GPT2Config], ir.Model] = {}


def uncached(kind: Kind, config: GPT2Config) -> ir.Model:
    model = _trace(kind, config)
    _traces[kind, config] = model.clone()
    return model


def cached(kind: Kind, config: GPT2Config) -> ir.Model:
    return _traces[kind, config].clone() if (kind, config) in _traces else uncached(kind, config)


@contextmanager
def traced(trace: Callable[[Kind, GPT2Config], ir.Model]) -> Iterator[None]:
    """Exports with `cached` or `uncached` traces inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "trace", trace)
        yield


def add_graphs(folder: Path, wanted: Sequence[Kind]) -> None:
    """`export_graphs` for only some kinds, if nothing reads the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "trace_all", partial(kinds.trace_all, kinds=wanted))
        export_graphs(folder)
