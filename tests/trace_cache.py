"""`export.trace` takes seconds and depends on kind and config alone: a process traces each once, and clones it.

That a trace is the same each time is proven where another process makes a folder's bytes again. A clone is the same
graph, but the nodes that join it later are numbered otherwise: where bytes are compared, `anew` is wanted.
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
_kept: dict[tuple[Kind, GPT2Config], ir.Model] = {}


def anew(kind: Kind, config: GPT2Config) -> ir.Model:
    model = _trace(kind, config)
    _kept[kind, config] = model.clone()
    return model


def once(kind: Kind, config: GPT2Config) -> ir.Model:
    return _kept[kind, config].clone() if (kind, config) in _kept else anew(kind, config)


@contextmanager
def traced(trace: Callable[[Kind, GPT2Config], ir.Model]) -> Iterator[None]:
    """By `once` or `anew`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "trace", trace)
        yield


def add_graphs(folder: Path, wanted: Sequence[Kind]) -> None:
    """`export_graphs` of some kinds alone, where nothing reads the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "trace_all", partial(kinds.trace_all, kinds=wanted))
        export_graphs(folder)
