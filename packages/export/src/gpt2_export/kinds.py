"""The kinds of graph that a folder holds, and all of them made in one go."""

from pathlib import Path

from gpt2_model import GPT2Config

from gpt2_export import graph
from gpt2_export.portable import PORTABLE
from gpt2_export.progress import Progress, silent
from gpt2_export.serving import SERVING

KINDS = (PORTABLE, SERVING)


def export_all(config: GPT2Config, folder: Path, weights: str, *, progress: Progress = silent) -> list[str]:
    """Writes every graph that the network can have, once all of them are right; returns why it cannot have the others.

    A graph of a refused kind that lies in the folder is of another time, and goes.

    Raises:
        FolderError: the weights cannot be read.
        GraphError: a graph is not what it must be; nothing is written.
    """
    refusals = {kind: kind.refusal(config) for kind in KINDS}
    possible = [kind for kind, refusal in refusals.items() if refusal is None]
    models = []
    for done, kind in enumerate(possible):
        progress("export", done, len(possible))
        models.append(graph.build(kind, config, folder, weights))
    for kind, model in zip(possible, models, strict=True):
        graph.write(model, folder / kind.file)
    for kind, refusal in refusals.items():
        if refusal is not None:
            (folder / kind.file).unlink(missing_ok=True)
    progress("export", len(possible), len(possible))
    return [_no(kind) + refusal for kind, refusal in refusals.items() if refusal is not None]


def is_refusal(warning: str) -> bool:
    """Whether a warning is one that `export_all` returns: it is void once a folder's graphs are made anew."""
    return warning.startswith(tuple(_no(kind) for kind in KINDS))


def held(folder: Path) -> dict[str, str]:
    """The graphs of a folder: kind -> file."""
    return {kind.name: kind.file for kind in KINDS if (folder / kind.file).exists()}


def _no(kind: graph.Kind) -> str:
    return f"no {kind.name} graph: "
