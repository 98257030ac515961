"""Rung 2: both exported graphs in plain onnxruntime compute the same as the scratch network."""

import json
from collections.abc import Callable
from typing import Any

import backends
import pytest
from checkpoints import GRAPHS
from gpt2_model import GPT2
from sweep import assert_same_logits
from tolerances import atol

# The next rung's file, in the other worker, makes the same folders from the front, so neither waits for the other.
GRAPHS_BACKWARDS = GRAPHS[::-1]


@pytest.mark.parametrize("variant", GRAPHS_BACKWARDS)
def test_every_config_agrees_on_every_shape(variant: str, made: Callable[[str], Any]) -> None:
    model = GPT2.from_pretrained(made(variant).source)
    assert_same_logits(
        backends.scratch(model),
        backends.graph(made(variant).folder / "model.onnx"),
        vocab_size=model.config.vocab_size,
        n_positions=model.config.n_positions,
        atol=atol("graph", "onnxruntime cpu", "float32"),
    )


@pytest.mark.parametrize("variant", GRAPHS_BACKWARDS)
def test_every_config_agrees_on_every_shape_in_the_serving_graph(variant: str, made: Callable[[str], Any]) -> None:
    """Left- and right-padded rows too: only the text is read, into a slot of its own length."""
    model = GPT2.from_pretrained(made(variant).source)
    assert_same_logits(
        backends.scratch(model),
        backends.serving(made(variant).folder / "model_serving.onnx", model.config.n_positions),
        vocab_size=model.config.vocab_size,
        n_positions=model.config.n_positions,
        atol=atol("serving graph", "onnxruntime cpu", "float32"),
    )


def test_an_unsupported_head_size_leaves_the_portable_graph_and_a_warning(
    made: Callable[[str], Any],
) -> None:
    source, folder = made("heads of one")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["graphs"] == {"fp32": {"portable": "model.onnx", "explaining": "model_explain.onnx"}}
    assert not (folder / "model_serving.onnx").exists()
    assert [warning for warning in manifest["warnings"] if warning.startswith("no serving graph: the head size is 1,")]
    model = GPT2.from_pretrained(source)
    assert_same_logits(
        backends.scratch(model),
        backends.graph(folder / "model.onnx"),
        vocab_size=model.config.vocab_size,
        n_positions=model.config.n_positions,
        atol=atol("graph", "onnxruntime cpu", "float32"),
    )
