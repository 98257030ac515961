"""Every model in the README can be frozen: each published config.json, with a network small enough to write to disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpt2_export.freeze.freeze import freeze
from gpt2_model import GPT2, GPT2Config
from gpt2_model.checkpoint import open_checkpoint
from gpt2_model.weights import stored_tensors
from safetensors.torch import load_file

MakeCheckpoint = Callable[..., Path]
PACKAGES = Path(__file__).parents[3]
PUBLISHED = json.loads((PACKAGES / "model/tests/data/published_configs.json").read_text(encoding="utf-8"))


def shrunk(published: dict[str, Any], model: GPT2) -> dict[str, Any]:
    """The same fields in the same order, with the sizes of the tests' own network."""
    own = {name: getattr(model.config, name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
    own["n_ctx"] = own["n_positions"]
    return {name: own.get(name, value) for name, value in published.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_frozen_with_the_weights_of_its_network(
    name: str, make_checkpoint: MakeCheckpoint, model: GPT2, tmp_path: Path
) -> None:
    source = make_checkpoint()
    (source / "config.json").write_text(json.dumps(shrunk(PUBLISHED[name], model)))
    warnings = freeze(open_checkpoint(source), tmp_path)
    assert not [warning for warning in warnings if "config.json" in warning]
    actual, expected = load_file(tmp_path / "model.safetensors"), stored_tensors(model)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[tensor], expected[tensor]) for tensor in expected)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert GPT2Config.from_hf(config) == model.config
    stated = {field: value for field, value in shrunk(PUBLISHED[name], model).items() if value is not None}
    assert stated.items() <= config.items()


def test_an_n_ctx_that_differs_warns_and_is_corrected(
    make_checkpoint: MakeCheckpoint, model: GPT2, tmp_path: Path
) -> None:
    warnings = freeze(open_checkpoint(make_checkpoint(config={"n_ctx": 512})), tmp_path)
    assert "config.json: n_ctx is 512 but n_positions is 24, which decides, as in transformers" in warnings
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["n_ctx"] == config["n_positions"] == 24
    assert GPT2Config.from_hf(config) == model.config  # which would warn, and warnings are errors
