"""The kinds of graph in a folder, and how to make all of them."""

from collections.abc import Collection, Sequence
from pathlib import Path

import onnx_ir as ir
from gpt2_model import GPT2Config

from gpt2_export.graphs import export
from gpt2_export.graphs.explain import EXPLAIN
from gpt2_export.graphs.export import Applied, Kind
from gpt2_export.graphs.portable import PORTABLE
from gpt2_export.graphs.serving import SERVING
from gpt2_export.precision.precision import FP32, PRECISIONS, Precision
from gpt2_export.progress import Progress, silent

KINDS = (PORTABLE, SERVING, EXPLAIN)


Bases = dict[Kind, ir.Model]
"""A network's graphs before a precision is applied to them."""


def trace_all(
    config: GPT2Config, file: Path, *, kinds: Sequence[Kind] = KINDS, progress: Progress = silent
) -> tuple[Bases, list[str]]:
    """The first half of every graph that the network can have, and a warning for each that it cannot.

    Args:
        config: of the network.
        file: its float32 weights.
        kinds: those to make.
        progress: called for each graph.

    Raises:
        FolderError: the weights cannot be read.
        GraphError: the weights do not fit the network.
    """
    refusals = {kind: kind.refusal(config) for kind in kinds}
    possible = [kind for kind, refusal in refusals.items() if refusal is None]
    bases = {}
    for done, kind in enumerate(possible):
        progress("export", done, len(possible))
        bases[kind] = export.base(kind, config, file)
    progress("export", len(possible), len(possible))
    return bases, [_no(kind) + refusal for kind, refusal in refusals.items() if refusal is not None]


def write_all(
    bases: Bases, config: GPT2Config, folder: Path, applied: Applied | None = None, *, beside: Path | None = None
) -> None:
    """Writes the graphs into a new folder, once all of them are complete.

    Args:
        bases: the first half of each graph.
        config: of the network.
        folder: where to write them.
        applied: a precision other than float32, and its weights file.
        beside: the folder of the weights, if another.

    Raises:
        GraphError: a graph breaks its contract; nothing is written.
    """
    precision = applied[0] if applied else None
    allowed = kinds_for(precision)
    models = {kind: export.finished(base, kind, config, applied) for kind, base in bases.items() if kind in allowed}
    for kind, model in models.items():
        export.write(model, folder / file_of(kind, precision), beside)


def kinds_for(precision: Precision | None) -> tuple[Kind, ...]:
    """The kinds that exist in a precision; None means float32, which has all."""
    return KINDS if precision is None else tuple(kind for kind in KINDS if not kind.float32_only)


def file_of(kind: Kind, precision: Precision | None) -> str:
    """A graph's file name; without a precision, float32's."""
    return kind.file if precision is None else precision.file(kind.file)


def is_refusal(warning: str) -> bool:
    """Whether a warning comes from `trace_all`: it is dropped when a folder's graphs are exported again."""
    return warning.startswith(tuple(_no(kind) for kind in KINDS))


def graphs_in(folder: Path) -> dict[str, dict[str, str]]:
    """The graphs of a folder: precision -> kind -> file, most exact first."""
    return graphs_among({path.name for path in folder.iterdir()})


def graphs_among(names: Collection[str]) -> dict[str, dict[str, str]]:
    """The same, from file names."""
    graphs = {}
    for precision in (None, *PRECISIONS.values()):
        files = {kind.name: file_of(kind, precision) for kind in kinds_for(precision)}
        there = {name: file for name, file in files.items() if file in names}
        if there:
            graphs[precision.name if precision else FP32] = there
    return graphs


def _no(kind: Kind) -> str:
    return f"no {kind.name} graph: "
