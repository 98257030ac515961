"""What `gpt2-export verify` reports at every point of `points.py`, for the correct network and for each known bug.

    python tests/proof.py [NAME...]           the errors of the correct networks, torch's own, and the limits: for
                                              all points, or those whose name begins so
    python tests/proof.py mistakes [NAME...]  how many times the limit each bug is, where it is least: for all
                                              configs, or those named

Whether a bug is refused does not depend on a checkpoint's weights: it is refused on the stress weights of `stress.py`,
which depend only on the config. So bugs are tried once per config, not once per point.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graph_mutants
import numpy as np
import onnx
import points
import pytest
import torch
from gpt2_export import freeze_checkpoint
from gpt2_export.errors import GraphError
from gpt2_export.graphs.explain import EXPLAIN
from gpt2_export.graphs.export import Kind
from gpt2_export.graphs.kinds import KINDS
from gpt2_export.graphs.portable import PORTABLE
from gpt2_export.graphs.serving import SERVING
from gpt2_export.verification import backends, explain_parity, stress, truth
from gpt2_export.verification.parity import verify
from gpt2_export.verification.sweep import Case, cases
from gpt2_export.verification.tolerance import stress_limit
from gpt2_model import GPT2, GPT2Config
from mutants import INVISIBLE_IN_FLOAT32, MUTANTS
from trace_cache import add_graphs, cached, traced

GRAPHS = {PORTABLE: graph_mutants.MUTANTS, SERVING: graph_mutants.SERVING, EXPLAIN: graph_mutants.EXPLAIN}
NETWORK = "the network"
MISTAKES = tuple(
    (where, name)
    for where, table in (
        (NETWORK, MUTANTS | INVISIBLE_IN_FLOAT32),
        *((kind.name, table) for kind, table in GRAPHS.items()),
    )
    for name in table
)


def tanh_gelu(config: GPT2Config) -> bool:
    return config.activation_function in ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


def usual_scale(config: GPT2Config) -> bool:
    return config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx


# Bugs that are none or cannot be seen: the reason, and the configs.
NONE: dict[str, tuple[str, Callable[[GPT2Config], bool]]] = {
    "erf GELU instead of tanh": ("it has the erf one", lambda c: c.activation_function == "gelu"),
    "tanh GELU instead of erf": ("it has the tanh one", tanh_gelu),
    "tanh GELU with sqrt(2/pi) rounded to six digits": ("less than float32's rounding", tanh_gelu),
    "no 1/sqrt(d)": (
        "it has none",
        lambda c: not c.scale_attn_weights and not c.scale_attn_by_inverse_layer_idx,
    ),
    "1/sqrt(d) although the config says none": ("it has one", usual_scale),
    "layers counted from 1 too late in the scale": (
        "the first two layers have the usual scale",
        lambda c: usual_scale(c) and c.n_layer == 2,
    ),
    "square MLP not transposed": ("the matrix is not square", lambda c: c.inner_size != c.n_embd),
    "a head of its own ignored": ("it has none of its own", lambda c: c.tie_word_embeddings),
    "scale of the attention lost in the serving graph": ("the operator's own is the same", usual_scale),
    "epsilon of the last LayerNorm alone lost in the serving graph": (
        "the operator's own is the same",
        lambda c: c.layer_norm_epsilon == 1e-5,
    ),
    # The formula is correct there. The graphs read the file's own bytes, and other bugs test their places.
    "one weight of a thousand wrong by a thousandth": (
        "one of that many is below the limit",
        lambda c: c.n_embd >= 192,
    ),
    "padding counted in the positions": ("verify gives the positions", lambda c: True),
    "no positions after the cache": ("verify gives the positions", lambda c: True),
}


@dataclass(frozen=True, kw_only=True)
class Stressed:
    """A folder with its stress weights, and its network's exact results."""

    folder: Path
    config: GPT2Config
    sweep: tuple[Case, ...]
    exact: list[np.ndarray]

    @property
    def limit(self) -> float:
        return stress_limit(max(float(np.abs(logits).max()) for logits in self.exact))

    def of_step(self, step: backends.Step) -> float:
        """A backend's error as a multiple of the limit; NaN counts as infinite."""
        return float(np.nan_to_num(stress.difference(step, self.exact, self.sweep) / self.limit, nan=np.inf))


@contextmanager
def made(config: GPT2Config, kinds: tuple[Kind, ...] = KINDS) -> Iterator[Path]:
    """Makes the folder of a network."""
    with tempfile.TemporaryDirectory() as name, traced(cached):
        points.write(GPT2(config), Path(name) / "source")
        freeze_checkpoint(Path(name) / "source", Path(name) / "folder")
        add_graphs(Path(name) / "folder", kinds)
        yield Path(name) / "folder"


@contextmanager
def stressed(config: GPT2Config) -> Iterator[Stressed]:
    with made(config) as frozen, stress.folder(frozen) as folder:
        sweep = stress.shortened(cases(vocab_size=config.vocab_size, n_positions=config.n_positions))
        yield Stressed(folder=folder, config=config, sweep=sweep, exact=truth.load(folder)(sweep))


def mistaken(place: Stressed, where: str, name: str) -> float | None:
    """A bug's error as a multiple of the limit; None if the network has no place for it."""
    if name in NONE and NONE[name][1](place.config):
        return None
    if where == NETWORK:
        model = GPT2.from_pretrained(place.folder)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # a bug may be made in place, and they are mapped
        with pytest.MonkeyPatch.context() as patch:
            (MUTANTS | INVISIBLE_IN_FLOAT32)[name].make(model, patch)
            return place.of_step(backends.stepped(model))
    kind = next(kind for kind in GRAPHS if kind.name == where)
    path = place.folder / kind.file
    if not path.exists():
        return None
    right = path.read_bytes()
    proto = onnx.load_from_string(right)
    try:
        GRAPHS[kind][name].make(proto.graph)
    except (AssertionError, StopIteration, ValueError, IndexError):
        return None  # the graph has no such operator
    if proto.SerializeToString() == onnx.load_from_string(right).SerializeToString():
        return None
    path.write_bytes(proto.SerializeToString())
    try:
        if kind is EXPLAIN:
            figures = explain_parity.compare(place.folder, limit=stress_limit)
            times = [entry["max_difference"] / entry["tolerance"] for entry in figures.values()]
            return float(np.nan_to_num(times, nan=np.inf).max())
        return place.of_step(backends.graph(kind.name, place.folder))
    except (RuntimeError, GraphError):
        return np.inf  # it does not even load or run
    finally:
        path.write_bytes(right)


def right(point: points.Point, seed: int = 0) -> dict[str, Any]:
    """The report of a correct network, or a VerificationError."""
    with tempfile.TemporaryDirectory() as name, traced(cached):
        points.write(points.model(point, seed), Path(name) / "source")
        freeze_checkpoint(Path(name) / "source", Path(name) / "folder")
        add_graphs(Path(name) / "folder", KINDS)
        return verify(Path(name) / "folder")


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    if arguments[:1] == ["mistakes"]:
        least: dict[tuple[str, str], tuple[float, str]] = {}
        for name, config in points.configs().items():
            if arguments[1:] and name not in arguments[1:]:
                continue
            with stressed(config) as place:
                for mistake in MISTAKES:
                    times = mistaken(place, *mistake)
                    if times is not None:
                        least[mistake] = min(least.get(mistake, (np.inf, "")), (times, name))
        for (where, name), (times, config_name) in sorted(least.items(), key=lambda entry: entry[1]):
            print(f"{times:12.1f}  {where}: {name} ({config_name})")
        return
    for point in points.points():
        if arguments and not point.name.startswith(tuple(arguments)):
            continue
        report = right(point)
        worst = max(figures["max_logit_difference"] for figures in report["backends"].values())
        stressed_share = max(entry["max_difference"] / entry["tolerance"] for entry in report["stress"].values())
        shown = [
            f"{what} {figures['max_difference']:.1e} {figures['float32_error']:.1e} {figures['tolerance']:.1e}"
            for what, figures in report["explaining"].items()
        ]
        print(
            f"{point.name:44} largest {report['largest_logit']:6.2f}  worst {worst:.1e} "
            f"torch {report['float32_error']:.1e} limit {report['tolerance']:.1e}  {'  '.join(shown)}  "
            f"stress {stressed_share:.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
