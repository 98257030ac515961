"""Runs the same graphs on stress weights, which expose every mistake in the formula.

A checkpoint's weights may hide a mistake: with a wide stream LayerNorm's epsilon is below rounding, with small weights
the two GELUs look the same. The formula does not depend on the weights, so it is also proven on random ones made for
the config: the stream's variance is about epsilon, and the inputs of softmaxes and activations are about one. With them
float32 is off by at most a millionth of the largest number; the limit is ten times that, and torch's own float32 must
meet it too: the yardstick of `tolerance.py` must be right itself.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import sqrt
from pathlib import Path

import numpy as np
from gpt2_model import GPT2Config
from gpt2_model.checkpoint import read_json
from gpt2_model.weights import map_tensor_name, parameter_shapes

from gpt2_export.folder import atomic
from gpt2_export.folder.reports import Deviation
from gpt2_export.freeze.freeze import WEIGHTS
from gpt2_export.graphs import kinds
from gpt2_export.graphs.explain import EXPLAIN
from gpt2_export.precision.precision import FP32
from gpt2_export.verification import explain_parity, truth
from gpt2_export.verification.backends import Backend, Step, read
from gpt2_export.verification.sweep import Case
from gpt2_export.verification.tolerance import stress_limit
from gpt2_export.weights import safetensors_file

SMALLEST_EPSILON = 1e-12  # below this the stream would underflow
NORM_STD = 0.3  # of LayerNorm's weights and of biases
INPUT_STD = 1.5  # approximately, of the inputs of softmax and activation
MOST_TOKENS = 64  # per case: no mistake needs a longer one

Figures = dict[str, Deviation]


def compare(frozen: Path, available: Sequence[Backend], sweep: Sequence[Case]) -> Figures:
    """The error, the largest number and the limit, for each backend and each output of the explain graph."""
    short = shortened(sweep)
    figures: Figures = {}
    with folder(frozen) as place:
        exact = truth.load(place)(short)
        largest = max(float(np.abs(logits).max()) for logits in exact)
        for backend in available:
            figures[f"{backend.name}, stress weights"] = {
                "max_difference": difference(backend.open(place), exact, short),
                "tolerance": stress_limit(largest),
            }
        if EXPLAIN.name in kinds.graphs_in(frozen).get(FP32, {}):
            for what, entry in explain_parity.compare(place, limit=stress_limit).items():
                figures[f"the explain graph's {what}, stress weights"] = entry
    return figures


def shortened(sweep: Sequence[Case]) -> tuple[Case, ...]:
    """The cases to run."""
    return tuple(case for case in sweep if case.input_ids.shape[1] <= MOST_TOKENS)


def beyond(figures: Figures) -> list[str]:
    """The figures beyond their limits.

    >>> beyond({"one": {"max_difference": 1e-7, "tolerance": 1e-6}, "two": {"max_difference": 1e-5, "tolerance": 1e-6}})
    ['two: differs by 1e-05, limit 1e-06']
    """
    return [
        f"{name}: differs by {entry['max_difference']:.3g}, limit {entry['tolerance']:.3g}"
        for name, entry in figures.items()
        if not entry["max_difference"] <= entry["tolerance"]  # NaN fails too
    ]


def difference(step: Step, exact: Sequence[np.ndarray], sweep: Sequence[Case]) -> float:
    """The largest error over every position with text."""
    differences = []
    for case, logits in zip(sweep, exact, strict=True):
        text = case.attention_mask[:, case.past :] == 1
        differences.append(np.abs(read(step, case)[text] - logits[text]).max())
    return float(np.max(differences))


@contextmanager
def folder(frozen: Path) -> Iterator[Path]:
    """A temporary copy of a frozen folder with stress weights at the same places of the file.

    Raises:
        StorageError: the disk is full.
    """
    config = GPT2Config.from_hf(read_json(frozen / "config.json"))
    places = safetensors_file.places(frozen / WEIGHTS)
    forms = {name: safetensors_file.Form(entry.shape) for name, entry in places.items()}
    with atomic.within(frozen, needed_bytes=sum(form.nbytes for form in forms.values())) as copy:
        for file in ("config.json", *kinds.graphs_in(frozen).get(FP32, {}).values()):
            shutil.copy(frozen / file, copy)
        safetensors_file.write(
            copy / WEIGHTS, forms, (tensor(config, name, form.shape) for name, form in forms.items())
        )
        yield copy


def tensor(config: GPT2Config, stored_name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor in the file's layout, the same each time."""
    name, _ = map_tensor_name(stored_name)
    rng = np.random.default_rng([list(parameter_shapes(config)).index(name), 3])
    made: np.ndarray = rng.standard_normal(shape, np.float32)
    made *= std(config, name)
    if ".ln_" in f".{name}" and name.endswith("weight"):
        made += 1
    if name.startswith("ln_f.") and config.tie_word_embeddings:
        # The head is then the embedding, as small as the stream: unscaled, all tokens would be about equally likely,
        # and a wrong layer's log-probabilities within the rounding of the right ones.
        made /= std(config, "wte.weight") * sqrt(config.n_embd)
    if "attn.c_attn" in name:  # the last axis is queries, keys, values: [C, 3C] in the file
        sharpness = sqrt(config.attention_scale(int(name.split(".")[1])) * sqrt(config.head_size))
        made[..., : 2 * config.n_embd] /= sharpness
    return made


def std(config: GPT2Config, parameter: str) -> float:
    """The standard deviation of a parameter.

    >>> round(std(GPT2Config(), "wte.weight"), 5), round(std(GPT2Config(), "h.0.mlp.c_fc.weight"), 3)
    (0.00224, 0.054)
    """
    stream = sqrt(max(config.layer_norm_epsilon, SMALLEST_EPSILON))
    if parameter in ("wte.weight", "wpe.weight"):
        return stream / sqrt(2)
    added = stream / sqrt(config.n_layer)  # by each half of a block
    if parameter.endswith("c_proj.bias"):
        return NORM_STD * added
    if parameter.endswith("mlp.c_proj.weight"):
        return added / sqrt(config.inner_size)
    if parameter.endswith("attn.c_proj.weight"):
        return added / sqrt(config.n_embd)
    if parameter.endswith(("c_attn.weight", "c_fc.weight")):
        return INPUT_STD / sqrt(config.n_embd)
    if parameter == "lm_head.weight":
        return 1 / sqrt(config.n_embd)
    return NORM_STD
