"""Beside the ladder: `gpt2-runtime explain` shows the same attention and lens as transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attention_parity import assert_same_attention, transformers
from gpt2_export.pipeline import DEMO
from gpt2_runtime.explain.explainer import Explainer
from tolerances import atol

ATOL = atol("explaining graph", "onnxruntime cpu", "float32")


@pytest.mark.parametrize("variant", ["as published", "scaled by layer", "upcast attention", "untied", "gelu"])
def test_attention_and_lens_are_transformers(variant: str, made: Callable[[str], Any]) -> None:
    source, folder = made(variant)
    assert_same_attention(transformers(source), Explainer.open(folder, threads=1), ATOL)


def test_attention_and_lens_of_a_trained_model_are_transformers(demo_folder: Path) -> None:
    assert_same_attention(transformers(DEMO), Explainer.open(demo_folder, threads=1), ATOL)
