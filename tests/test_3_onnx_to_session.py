"""Rung 3: the runtime's session says what its graph says in plain onnxruntime."""

from collections.abc import Callable
from typing import Any

import backends
import pytest
from checkpoints import GRAPHS
from gpt2_runtime import Session
from sweep import assert_same_logits
from tolerances import atol


@pytest.mark.parametrize("variant", GRAPHS)
def test_every_config_agrees_on_every_shape(variant: str, made: Callable[[str], Any]) -> None:
    folder = made(variant).folder
    session = Session.open(folder, threads=1)
    assert_same_logits(
        backends.graph(folder / "model.onnx"),
        backends.runtime(session),
        vocab_size=session.bundle.architecture.vocab_size,
        n_positions=session.bundle.architecture.n_positions,
        atol=atol("session", "onnxruntime cpu", "float32"),
        padded=False,  # a session's rows are texts of one length
    )
