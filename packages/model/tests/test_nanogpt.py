"""nanoGPT's ckpt.pt: read if pickles are allowed, with its own config, computing the same as nanoGPT."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpt2_model import GPT2, ConfigError, SourceError, TensorError
from gpt2_model.checkpoint import open_checkpoint
from gpt2_model.weights import load, stored_tensors
from torch import Tensor, nn
from torch.nn import functional as F

MakeModel = Callable[..., GPT2]
Tensors = dict[str, Tensor]
MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
ARGS = {"n_layer": 2, "n_head": 3, "n_embd": 12, "block_size": 16, "bias": True, "vocab_size": 50, "dropout": 0.2}


class NanoGPT(nn.Module):
    """nanoGPT's network on its own tensors: torch's Linear and LayerNorm without biases, the exact GELU."""

    def __init__(self, tensors: Tensors, n_layer: int, n_head: int) -> None:
        super().__init__()
        self.tensors, self.n_layer, self.n_head = tensors, n_layer, n_head

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight = self.tensors[f"{name}.weight"]
        return F.layer_norm(x, weight.shape, weight, self.tensors.get(f"{name}.bias"), 1e-5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tensors["transformer.wte.weight"][ids] + self.tensors["transformer.wpe.weight"][: ids.shape[1]]
        for layer in range(self.n_layer):
            block = f"transformer.h.{layer}"
            q, k, v = self.linear(self.norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").chunk(3, dim=-1)
            heads = [each.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for each in (q, k, v)]
            y = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
            x = x + self.linear(y, f"{block}.attn.c_proj")
            hidden = F.gelu(self.linear(self.norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"))
            x = x + self.linear(hidden, f"{block}.mlp.c_proj")
        return self.norm(x, "transformer.ln_f") @ self.tensors["lm_head.weight"].t()


@pytest.fixture(scope="module")
def tensors(make_model: MakeModel) -> Tensors:
    """As nanoGPT saves them, including the tied head."""
    stored = stored_tensors(make_model(dtype=torch.float32))
    turned = {name: each.t().contiguous() if name.endswith(MATRICES) else each for name, each in stored.items()}
    return turned | {"lm_head.weight": turned["transformer.wte.weight"]}


@pytest.fixture
def write(tmp_path: Path, tensors: Tensors) -> Callable[..., Path]:
    def write(args: object = ARGS, *, tensors: Tensors = tensors, config: dict[str, Any] | None = None) -> Path:
        content = {
            "model": {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()},
            "optimizer": {"state": {0: {"step": torch.tensor(5.0)}}, "param_groups": [{"lr": 6e-4}]},
            "model_args": args,
            "iter_num": 5,
            "best_val_loss": torch.tensor(3.2),
            "config": {"out_dir": "out"},
        }
        torch.save(content, tmp_path / "ckpt.pt")
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return write


@pytest.mark.filterwarnings("ignore::gpt2_model.CheckpointWarning")
@pytest.mark.parametrize("bias", [True, False])
def test_a_ckpt_computes_the_same_as_nanogpt(write: Callable[..., Path], tensors: Tensors, bias: bool) -> None:
    if not bias:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(".bias")}
    loaded = load(write(ARGS | {"bias": bias}, tensors=tensors), allow_pickle=True)
    ids = torch.arange(16)[None]
    torch.testing.assert_close(loaded(ids)[0], NanoGPT(tensors, 2, 3)(ids), rtol=0, atol=1e-5)
    assert loaded.config.activation_function == "gelu"
    assert loaded.config.resid_pdrop == 0.2
    assert loaded.lm_head.weight is loaded.wte.weight


def test_it_is_read_only_if_pickles_are_allowed(write: Callable[..., Path]) -> None:
    with pytest.raises(SourceError, match=r"only as a pickle, ckpt\.pt, .* \(--allow-pickle\)"):
        open_checkpoint(write())


def test_every_conversion_is_reported(write: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(write(), allow_pickle=True)
    assert [warning.partition(":")[0] for warning in checkpoint.warnings] == [
        "ckpt.pt",
        "ckpt.pt does not say which GELU it was trained with",
        "every tensor name begins with _orig_mod., a prefix left by torch.compile; it was removed",
        "matrices are stored [out, in], as in torch's Linear (nanoGPT, minGPT); each was transposed",
    ]
    assert "left out: best_val_loss, config, iter_num and 1 more" in checkpoint.warnings[0]


@pytest.mark.filterwarnings("ignore::gpt2_model.CheckpointWarning")
def test_a_config_beside_it_adds_what_it_does_not_state(write: Callable[..., Path]) -> None:
    checkpoint = open_checkpoint(
        write(config={"activation_function": "gelu_new", "eos_token_id": 7}), allow_pickle=True
    )
    assert not [warning for warning in checkpoint.warnings if "GELU" in warning]
    assert checkpoint.config["eos_token_id"] == 7
    assert load(checkpoint.folder, allow_pickle=True).config.activation_function == "gelu_new"


@pytest.mark.filterwarnings("ignore::gpt2_model.CheckpointWarning")
def test_a_smaller_vocabulary_in_a_config_beside_it_cuts_the_padding(
    write: Callable[..., Path], tensors: Tensors
) -> None:
    filled = torch.cat((tensors["transformer.wte.weight"], torch.ones(14, 12)))
    padded = tensors | {"transformer.wte.weight": filled, "lm_head.weight": filled}
    args = ARGS | {"vocab_size": 64}
    assert load(write(args, tensors=padded), allow_pickle=True).config.vocab_size == 64
    loaded = load(write(args, tensors=padded, config={"vocab_size": 50}), allow_pickle=True)
    assert loaded.config.vocab_size == 50
    assert torch.equal(loaded.wte.weight, tensors["transformer.wte.weight"])


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"n_layer": 3}, "config.json: n_layer is 3, ckpt.pt's is 2"),
        ({"hidden_size": 24}, "config.json: n_embd is 24, ckpt.pt's is 12"),
        ({"n_positions": "16"}, "config.json: n_positions is '16', ckpt.pt's is 16"),
        ({"vocab_size": 64}, "config.json: vocab_size is 64, ckpt.pt's is 50"),
        ({"vocab_size": None, "n_head": 4}, "config.json: n_head is 4, ckpt.pt's is 3"),
    ],
)
def test_a_config_that_contradicts_it_is_refused(
    write: Callable[..., Path], config: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        open_checkpoint(write(config=config), allow_pickle=True)
    assert str(caught.value) == complaint


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ({name: value for name, value in ARGS.items() if name != "n_head"}, "model_args lacks n_head"),
        (ARGS | {"vocab_size": None}, "model_args lacks vocab_size"),
        ({}, "model_args lacks n_layer, n_head, n_embd and 2 more"),
        (ARGS | {"use_rmsnorm": True}, "model_args has use_rmsnorm, which nanoGPT does not"),
        ([1, 2], "model_args is [1, 2]; it must be a table of nanoGPT's settings"),
        (ARGS | {"n_layer": "2"}, "n_layer is '2'; it must be a whole number"),
        (ARGS | {"n_layer": 10**9}, "config.json says 1000000000 layers, but there are 29 tensors in all"),
        (ARGS | {"n_embd": 3 * 10**8}, "config.json says n_embd 300000000, the tensors 12"),
        (ARGS | {"dropout": 2}, "resid_pdrop is 2"),
        (ARGS | {"bias": False, "block_size": 17}, "config.json says n_positions 17, the tensors 16"),
    ],
)
@pytest.mark.filterwarnings("ignore::gpt2_model.CheckpointWarning")
def test_settings_of_another_network_are_refused(write: Callable[..., Path], args: object, complaint: str) -> None:
    with pytest.raises((ConfigError, TensorError)) as caught:
        load(write(args), allow_pickle=True)
    assert complaint in str(caught.value)


def test_matrices_in_conv1d_layout_are_refused(write: Callable[..., Path], tensors: Tensors) -> None:
    """nanoGPT always uses Linear, so a Conv1D matrix is wrong."""
    turned = {name: each.t().contiguous() if name.endswith(MATRICES) else each for name, each in tensors.items()}
    with pytest.raises(TensorError, match=r"c_attn\.weight has shape \[36, 12\], config\.json says \[12, 36\]"):
        load(write(tensors=turned), allow_pickle=True)
