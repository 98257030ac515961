"""Rung 2: the exported graph in plain onnxruntime says what the scratch network says."""

from collections.abc import Callable
from typing import Any

import backends
import pytest
from checkpoints import GRAPHS
from gpt2_model import GPT2
from sweep import assert_same_logits
from tolerances import atol


@pytest.mark.parametrize("variant", GRAPHS)
def test_every_config_agrees_on_every_shape(variant: str, made: Callable[[str], Any]) -> None:
    model = GPT2.from_pretrained(made(variant).source)
    assert_same_logits(
        backends.scratch(model),
        backends.graph(made(variant).folder / "model.onnx"),
        vocab_size=model.config.vocab_size,
        n_positions=model.config.n_positions,
        atol=atol("graph", "onnxruntime cpu", "float32"),
    )
