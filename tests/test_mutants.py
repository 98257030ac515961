"""Every known mistake fails the very check that the ladder's rungs must pass."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import backends
import graph_mutants
import numpy as np
import onnx
import pytest
import torch
from checkpoints import VARIANTS, network
from gpt2_model import GPT2
from gpt2_runtime import Session, session
from mutants import INVISIBLE_IN_FLOAT32, MUTANTS, Mutant
from sweep import assert_same_logits
from tolerances import TOLERANCES, atol


def check(mutant: Mutant, dtype: torch.dtype, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The first rung's check, of a network that has the mistake."""
    reference = network(**VARIANTS[mutant.variant])
    reference.save_pretrained(folder)
    tried = GPT2.from_pretrained(folder, dtype=dtype)
    mutant.make(tried, patch)
    assert_same_logits(
        backends.transformers(reference.to(dtype)),
        backends.scratch(tried),
        vocab_size=reference.config.vocab_size,
        n_positions=reference.config.n_positions,
        atol=atol("scratch", "torch cpu", str(dtype).removeprefix("torch.")),
    )


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_in_the_network_is_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="a logit differs by"):
        check(MUTANTS[name], torch.float32, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", INVISIBLE_IN_FLOAT32)
def test_a_mistake_as_small_as_rounding_is_caught_in_float64_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(INVISIBLE_IN_FLOAT32[name], torch.float32, tmp_path, monkeypatch)
    with pytest.raises(AssertionError, match="a logit differs by"):
        check(INVISIBLE_IN_FLOAT32[name], torch.float64, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", graph_mutants.MUTANTS)
def test_a_mistake_in_the_graph_is_caught(name: str, made: Callable[[str], Any], tmp_path: Path) -> None:
    reference = GPT2.from_pretrained(made("as published").source)
    graph = onnx.load(made("as published").folder / "model.onnx", load_external_data=False)
    graph_mutants.MUTANTS[name](graph.graph)
    shutil.copy(made("as published").folder / "model.safetensors", tmp_path)
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(AssertionError, match="a logit differs by"):
        assert_same_logits(
            backends.scratch(reference),
            backends.graph(tmp_path / "model.onnx"),
            vocab_size=reference.config.vocab_size,
            n_positions=reference.config.n_positions,
            atol=atol("graph", "onnxruntime cpu", "float32"),
        )


def keys_for_values(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(session, "_tensors", lambda cache: [tensor for layer in cache.layers for tensor in layer[::-1]])


def layers_reversed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(session, "_tensors", lambda cache: [tensor for layer in cache.layers[::-1] for tensor in layer])


def positions_anew(patch: pytest.MonkeyPatch) -> None:
    count = np.arange
    patch.setattr(np, "arange", lambda start, stop, **named: count(0, stop - start, **named))


SESSION_MUTANTS = {
    "keys and values swapped in the session": keys_for_values,
    "the cache of one layer given to another in the session": layers_reversed,
    "positions that start anew with every step of the session": positions_anew,
}


@pytest.mark.parametrize("name", SESSION_MUTANTS)
def test_a_mistake_in_the_session_is_caught(
    name: str, made: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made("as published").folder
    opened = Session.open(folder, threads=1)
    SESSION_MUTANTS[name](monkeypatch)
    with pytest.raises(AssertionError, match="a logit differs by"):
        assert_same_logits(
            backends.graph(folder / "model.onnx"),
            backends.runtime(opened),
            vocab_size=opened.bundle.architecture.vocab_size,
            n_positions=opened.bundle.architecture.n_positions,
            atol=atol("session", "onnxruntime cpu", "float32"),
            padded=False,
        )


def test_every_tolerance_has_a_victim() -> None:
    caught = {
        ("scratch", "float32"): MUTANTS,
        ("scratch", "float64"): INVISIBLE_IN_FLOAT32,
        ("graph", "float32"): graph_mutants.MUTANTS,
        ("session", "float32"): SESSION_MUTANTS,
        ("full size", "float32"): MUTANTS,
    }
    for (rung, _, dtype), tolerance in TOLERANCES.items():
        assert tolerance.victim in caught[rung, dtype], rung
