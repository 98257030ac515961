"""Small networks whose weights expose every mistake, and checkpoints of them on disk."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from gpt2_model import GPT2, GPT2Config
from gpt2_model.weights import stored_tensors
from hypothesis import settings
from safetensors.torch import save_file
from torch import Tensor

# The same examples on every run: a failure can be repeated, and a pass means the same everywhere.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=25)
settings.load_profile("repeatable")

torch.set_num_threads(1)  # these networks are too small to gain from a second thread

SIZES = {"vocab_size": 50, "n_positions": 16, "n_embd": 12, "n_layer": 2, "n_head": 3}

MakeModel = Callable[..., GPT2]
MakeFolder = Callable[..., Path]


def make_model_of_any_size(*, dtype: torch.dtype = torch.float64, **fields: Any) -> GPT2:
    """A network in eval mode with weights of std 0.3 and no parameter at its neutral value."""
    model = GPT2(GPT2Config(**(SIZES | fields))).to(dtype).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
            parameter.normal_(centre, 0.3, generator=rng)
    return model


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    return make_model_of_any_size


@pytest.fixture(scope="session")
def model() -> GPT2:
    """Shared and read-only; a test that changes a network makes its own. In float64, for tight tolerances."""
    return make_model_of_any_size()


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes a checkpoint folder: a network's tensors under transformers' names, unless `tensors` is given."""

    def make(
        model: GPT2,
        *,
        tensors: Mapping[str, Tensor] | None = None,
        config: Mapping[str, Any] | None = None,
        name: str = "checkpoint",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(model.config.to_hf() | dict(config or {})))
        save_file(dict(stored_tensors(model) if tensors is None else tensors), folder / "model.safetensors")
        return folder

    return make
