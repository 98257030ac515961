"""minGPT's model.pt: read if pickles are allowed, with the network of its own config.json and an untied head."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpt2_model import GPT2, ConfigError, TensorError
from gpt2_model.mingpt import KINDS
from gpt2_model.weights import load, stored_tensors
from torch import Tensor

MakeModel = Callable[..., GPT2]
MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
# As its projects write it, before they know their data.
MODEL = {
    "model_type": "gpt-nano",
    "n_layer": None,
    "n_head": None,
    "n_embd": None,
    "vocab_size": None,
    "block_size": None,
    "embd_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "attn_pdrop": 0.0,
}

pytestmark = pytest.mark.filterwarnings("ignore::gpt2_model.CheckpointWarning")


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> GPT2:
    return make_model(dtype=torch.float32, n_layer=3, n_head=3, n_embd=48, tie_word_embeddings=False)


@pytest.fixture
def write(tmp_path: Path, model: GPT2) -> Callable[..., Path]:
    def write(**fields: Any) -> Path:
        tensors: dict[str, Tensor] = {
            name: each.t().contiguous() if name.endswith(MATRICES) else each
            for name, each in stored_tensors(model).items()
        }
        masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 16, 16).tril() for layer in range(3)}
        torch.save(tensors | masks, tmp_path / "model.pt")
        document = {"system": {"seed": 3407}, "trainer": {"max_iters": None}, "model": MODEL | fields}
        (tmp_path / "config.json").write_text(json.dumps(document))
        return tmp_path

    return write


@pytest.mark.parametrize("fields", [{}, {"model_type": None, "n_layer": 3, "n_head": 3, "n_embd": 48}])
def test_it_is_read_with_the_network_of_its_config(
    write: Callable[..., Path], model: GPT2, fields: dict[str, Any]
) -> None:
    loaded = load(write(**fields), allow_pickle=True)
    assert (loaded.config.n_head, loaded.config.vocab_size, loaded.config.n_positions) == (3, 50, 16)
    assert loaded.config.activation_function == "gelu_new"
    assert loaded.config.attn_pdrop == 0.0
    read, expected = stored_tensors(loaded), stored_tensors(model)
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["gpt-huge", None, 7, ["gpt2"]])
def test_an_unknown_model_type_is_refused_listing_the_known_ones(write: Callable[..., Path], kind: object) -> None:
    with pytest.raises(ConfigError, match=r"config\.json is minGPT's, and its model_type is") as caught:
        load(write(model_type=kind), allow_pickle=True)
    assert all(name in str(caught.value) for name in KINDS)


def test_a_model_type_that_contradicts_the_tensors_is_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(TensorError, match=r"config\.json says n_embd 192, the tensors 48"):
        load(write(model_type="gpt-mini"), allow_pickle=True)
