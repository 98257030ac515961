"""The ladder's checkpoints: made by transformers, with weights that expose mistakes.

Weights of std 0.3, random biases and random LayerNorm affines: with GPT-2's own start (std 0.02, zeros, ones) the
classic mistakes are smaller than any honest tolerance (design section 5).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, utils

utils.logging.disable_progress_bar()

SIZES = {"vocab_size": 97, "n_positions": 80, "n_embd": 32, "n_layer": 2, "n_head": 4}
SPECIAL = {"bos_token_id": 96, "eos_token_id": 96}

# Every field that changes the arithmetic, and the families of published checkpoints.
VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "unscaled attention": {"scale_attn_weights": False},
    "scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "scaled by layer only": {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "upcast attention": {"reorder_and_upcast_attn": True},
    "inner width": {"n_inner": 40},
    "square inner width": {"n_inner": 32},
    "epsilon": {"layer_norm_epsilon": 1e-2},
    "untied": {"tie_word_embeddings": False},
    "one head": {"n_head": 1},
    "heads of one": {"n_embd": 6, "n_head": 6},
    "one layer": {"n_layer": 1},
    "gelu_pytorch_tanh": {"activation_function": "gelu_pytorch_tanh"},
    "gelu_fast": {"activation_function": "gelu_fast"},
    "gelu": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu"},
    "silu": {"activation_function": "silu"},
    "swish": {"activation_function": "swish"},
    "like distilgpt2": {"n_layer": 6},
    "like codeparrot": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    "like Cerebras-GPT": {"activation_function": "gelu", "n_inner": 128, "n_positions": 2048},
}
# Variants with a graph of their own. The others have the operators of one of these: another name of an activation, two
# flags at once, other sizes.
GRAPHS = (
    "as published",
    "unscaled attention",
    "scaled by layer",
    "upcast attention",
    "inner width",
    "epsilon",
    "untied",
    "one head",
    "gelu",
    "relu",
    "silu",
    "like Cerebras-GPT",
)
# Variants whose explain graph is tested: it takes as long to trace as the other two.
EXPLAINED = ("as published", "scaled by layer", "upcast attention", "untied", "gelu", "heads of one")

Tensors = dict[str, torch.Tensor]


def network(**fields: Any) -> GPT2LMHeadModel:
    """transformers' GPT-2 of a few thousand parameters, in eval mode.

    Eager attention, because the other implementations ignore reorder_and_upcast_attn.
    """
    config = GPT2Config(**(SIZES | SPECIAL | fields), attn_implementation="eager")
    made = GPT2LMHeadModel(config).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            centre = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            parameter.normal_(centre, 0.3, generator=rng)
    return made


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Replaces the tensors of a saved checkpoint."""
    file = folder / "model.safetensors"
    changed = change(load_file(file))
    file.unlink()  # the tensors may still be mapped from it
    save_file({name: tensor.contiguous() for name, tensor in changed.items()}, file)


def as_openai_published_it(folder: Path) -> None:
    """No prefix; the causal mask and its constant saved with each layer."""
    made = network()
    made.save_pretrained(folder)

    def change(tensors: Tensors) -> Tensors:
        changed = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        length = SIZES["n_positions"]
        for layer in range(SIZES["n_layer"]):
            changed[f"h.{layer}.attn.bias"] = torch.ones(1, 1, length, length).tril()
            changed[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
        return changed

    rewrite(folder, change)


def saved_without_its_head(folder: Path) -> None:
    """As a bare GPT2Model, which is how Cerebras-GPT was saved."""
    network(**(VARIANTS["like Cerebras-GPT"] | {"n_positions": 64})).transformer.save_pretrained(folder)


def saved_in_shards(folder: Path) -> None:
    network().save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2


def saved_in_half_precision(folder: Path) -> None:
    network().half().save_pretrained(folder)


def saved_in_bfloat16(folder: Path) -> None:
    network().bfloat16().save_pretrained(folder)


def with_a_resized_vocabulary(folder: Path) -> None:
    made = network()
    made.resize_token_embeddings(101, mean_resizing=False)
    made.save_pretrained(folder)


def with_its_tied_head_stored_too(folder: Path) -> None:
    network().save_pretrained(folder)
    rewrite(folder, lambda tensors: tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()})


def with_another_head_than_its_config_says(folder: Path) -> None:
    """Tied by config.json, different in the file: transformers 5 keeps the file's."""
    network().save_pretrained(folder)
    other = network(tie_word_embeddings=False).lm_head.weight.detach().clone()
    rewrite(folder, lambda tensors: tensors | {"lm_head.weight": other})


def with_a_head_of_its_own(folder: Path) -> None:
    network(tie_word_embeddings=False).save_pretrained(folder)


def saved_in_double_precision(folder: Path) -> None:
    network().double().save_pretrained(folder)


def with_a_value_head_beside_it(folder: Path) -> None:
    """As TRL saves a policy."""
    network().save_pretrained(folder)
    rewrite(folder, lambda tensors: tensors | {"v_head.summary.weight": torch.ones(1, SIZES["n_embd"])})


def with_an_old_number_of_positions(folder: Path) -> None:
    network().save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"n_ctx": 7, "n_special": 0}))


WILD = {
    make.__name__.replace("_", " "): make
    for make in (
        as_openai_published_it,
        saved_without_its_head,
        saved_in_shards,
        saved_in_half_precision,
        saved_in_bfloat16,
        with_a_resized_vocabulary,
        with_its_tied_head_stored_too,
        with_another_head_than_its_config_says,
        with_a_head_of_its_own,
        saved_in_double_precision,
        with_a_value_head_beside_it,
        with_an_old_number_of_positions,
    )
}
