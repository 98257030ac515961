"""Beside the ladder: what `gpt2-runtime explain` shows of a model's inside is what transformers has there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import backends
import pytest
from gpt2_export import graph
from gpt2_export.explaining import EXPLAINING
from gpt2_export.freeze import WEIGHTS
from gpt2_export.steps import DEMO, freeze_only
from gpt2_model import GPT2Config
from gpt2_model.checkpoint import read_json
from gpt2_runtime import Bundle
from gpt2_runtime.explanation import Explainer
from interior import assert_same_interior, transformers
from tolerances import atol

ATOL = atol("explaining graph", "onnxruntime cpu", "float32")


@pytest.mark.parametrize("variant", ["as published", "scaled by layer", "upcast attention", "untied", "gelu"])
def test_attention_and_lens_are_transformers(variant: str, made: Callable[[str], Any]) -> None:
    source, folder = made(variant)
    assert_same_interior(transformers(source), Explainer.open(folder, threads=1), ATOL)


def test_attention_and_lens_of_a_trained_model_are_transformers(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    freeze_only("demo", folder)
    path = folder / EXPLAINING.file
    config = GPT2Config.from_hf(read_json(folder / "config.json"))
    graph.write(graph.build(EXPLAINING, config, folder / WEIGHTS), path)  # it alone, for the others take as long
    explainer = Explainer(bundle=Bundle.open(folder), tokenizer=None, inference=backends.opened(path))
    assert_same_interior(transformers(DEMO), explainer, ATOL)
