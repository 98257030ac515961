"""Mutation tests: known bugs that the ladder's checks must catch."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import attention_parity
import backends
import beam_mutants
import graph_mutants
import onnx
import pytest
import session_mutants
import torch
from attention_parity import assert_same_attention
from checkpoints import VARIANTS, network
from gpt2_model import GPT2
from gpt2_runtime import Session
from gpt2_runtime.explain.explainer import Explainer
from mutants import INVISIBLE_IN_FLOAT32, MUTANTS, Mutant
from sweep import assert_same_logits
from tolerances import TOLERANCES, atol


def check(mutant: Mutant, dtype: torch.dtype, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The first rung's check on a network with the bug."""
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
def test_a_bug_in_the_network_is_caught(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="a logit differs by"):
        check(MUTANTS[name], torch.float32, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", INVISIBLE_IN_FLOAT32)
def test_a_bug_as_small_as_rounding_is_caught_only_in_float64(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(INVISIBLE_IN_FLOAT32[name], torch.float32, tmp_path, monkeypatch)
    with pytest.raises(AssertionError, match="a logit differs by"):
        check(INVISIBLE_IN_FLOAT32[name], torch.float64, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", graph_mutants.MUTANTS)
def test_a_bug_in_the_graph_is_caught(name: str, made: Callable[[str], Any], tmp_path: Path) -> None:
    reference, path = with_mistake(graph_mutants.MUTANTS[name], made, "model.onnx", tmp_path)
    with pytest.raises(AssertionError, match="a logit differs by"):
        assert_same_logits(
            backends.scratch(reference),
            backends.graph(path),
            vocab_size=reference.config.vocab_size,
            n_positions=reference.config.n_positions,
            atol=atol("graph", "onnxruntime cpu", "float32"),
        )


@pytest.mark.parametrize("name", graph_mutants.SERVING)
def test_a_bug_in_the_serving_graph_is_caught(name: str, made: Callable[[str], Any], tmp_path: Path) -> None:
    reference, path = with_mistake(graph_mutants.SERVING[name], made, "model_serving.onnx", tmp_path)
    with pytest.raises(AssertionError, match="a logit differs by"):
        assert_same_logits(
            backends.scratch(reference),
            backends.serving(path, reference.config.n_positions),
            vocab_size=reference.config.vocab_size,
            n_positions=reference.config.n_positions,
            atol=atol("serving graph", "onnxruntime cpu", "float32"),
        )


def with_mistake(
    mutant: graph_mutants.Mutant, made: Callable[[str], Any], file: str, folder: Path
) -> tuple[GPT2, Path]:
    """A checkpoint's network, and its graph with a bug, beside its weights."""
    source, right = made(mutant.variant)
    graph = onnx.load(right / file, load_external_data=False)
    mutant.make(graph.graph)
    shutil.copy(right / "model.safetensors", folder)
    onnx.save(graph, folder / file)
    return GPT2.from_pretrained(source), folder / file


@pytest.mark.parametrize("name", graph_mutants.EXPLAIN)
def test_a_bug_in_the_explain_graph_is_caught(name: str, made: Callable[[str], Any], tmp_path: Path) -> None:
    mutant = graph_mutants.EXPLAIN[name]
    _, path = with_mistake(mutant, made, "model_explain.onnx", tmp_path)
    source, folder = made(mutant.variant)
    explainer = replace(Explainer.open(folder, threads=1), inference=backends.opened(path))
    with pytest.raises(AssertionError, match="differs by"):
        assert_same_attention(
            attention_parity.transformers(source), explainer, atol("explaining graph", "onnxruntime cpu", "float32")
        )


@pytest.mark.parametrize("name", session_mutants.MUTANTS)
def test_a_bug_in_the_session_is_caught(name: str, made: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = session_mutants.MUTANTS[name]
    session = Session.open(made("as published").folder, threads=1, graph=mutant.graph)
    mutant.make(monkeypatch)
    with pytest.raises(AssertionError, match="a logit differs by"):
        assert_same_logits(
            backends.below(session),
            mutant.reader(session),
            vocab_size=session.bundle.architecture.vocab_size,
            n_positions=session.bundle.architecture.n_positions,
            atol=atol("session", "onnxruntime cpu", "float32"),
            padded=mutant.graph == "serving",
        )


def test_every_tolerance_catches_its_bug() -> None:
    caught = {
        ("scratch", "float32"): MUTANTS,
        ("scratch", "float64"): INVISIBLE_IN_FLOAT32,
        ("graph", "float32"): graph_mutants.MUTANTS,
        ("serving graph", "float32"): graph_mutants.SERVING,
        ("explaining graph", "float32"): graph_mutants.EXPLAIN,
        ("session", "float32"): session_mutants.MUTANTS,
        ("beams", "float32"): beam_mutants.MUTANTS,
        ("full size", "float32"): MUTANTS,
    }
    for (rung, _, dtype), tolerance in TOLERANCES.items():
        assert tolerance.must_catch in caught[rung, dtype], rung
