"""Random networks over the range of possible checkpoints: the points at which the proof is tested from both sides.

Weights are normal around 0, LayerNorm's around 1, and none is at its neutral value.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gpt2_model import GPT2, GPT2Config
from gpt2_model.weights import stored_tensors
from safetensors.torch import save_file

SIZES: dict[str, Any] = {"vocab_size": 311, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4}
MASSIVE = 3000.0  # the size of two channels in the published models' stream
STDS = (0.02, 0.1, 0.27, 0.5)
LOGIT = -100.0  # about the size of the published models' logits

# Each flag that changes the arithmetic.
FLAGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "unscaled attention": {"scale_attn_weights": False},
    "scaled by layer": {"scale_attn_by_inverse_layer_idx": True},
    "scaled by layer only": {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    "upcast attention": {"reorder_and_upcast_attn": True},
    "gelu_pytorch_tanh": {"activation_function": "gelu_pytorch_tanh"},
    "gelu_fast": {"activation_function": "gelu_fast"},
    "gelu": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu"},
    "silu": {"activation_function": "silu"},
    "swish": {"activation_function": "swish"},
    "inner width": {"n_inner": 80},
    "untied": {"tie_word_embeddings": False},
    "epsilon 1e-3": {"layer_norm_epsilon": 1e-3},
    "epsilon 1e-12": {"layer_norm_epsilon": 1e-12},
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """A network.

    Attributes:
        name: for reports.
        std: of the weights.
        fields: of its config, beside SIZES.
        massive: whether two channels of the stream are MASSIVE, as in trained models.
        low: whether every logit is moved to LOGIT.
    """

    name: str
    std: float
    fields: dict[str, Any] = field(default_factory=dict)
    massive: bool = False
    low: bool = False

    @property
    def config(self) -> GPT2Config:
        return GPT2Config(**(SIZES | self.fields))


def model(point: Point, seed: int = 0) -> GPT2:
    """The network, in eval mode."""
    made = GPT2(point.config).eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            centre = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
            parameter.normal_(centre, point.std, generator=rng)
        if point.massive:
            made.h[0].mlp.c_proj.bias[:2] = torch.tensor([MASSIVE, -MASSIVE / 2])
        if point.low:
            # A channel that the last norm makes constant and every row of the head reads with the same weight.
            made.ln_f.weight[2], made.ln_f.bias[2] = 0.0, 10.0
            made.lm_head.weight[:, 2] = LOGIT / 10.0
    return made


def write(network: GPT2, folder: Path) -> None:
    """Writes a network as a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    config = network.config.to_hf() | {"architectures": ["GPT2LMHeadModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(stored_tensors(network), folder / "model.safetensors", metadata={"format": "pt"})


def points() -> Iterator[Point]:
    """All points, grouped by config, since tracing takes longer than running."""
    unscaled = FLAGS["unscaled attention"]
    whole = {"vocab_size": 50257, "n_embd": 96, "n_layer": 3}
    shapes: dict[str, dict[str, Any]] = FLAGS | {
        "50,257 tokens": whole,
        "50,257 tokens unscaled": whole | unscaled,
        "width 32": {"n_embd": 32},
        "width 32 unscaled": {"n_embd": 32} | unscaled,
        "width 192": {"n_embd": 192},
        "width 192 unscaled": {"n_embd": 192} | unscaled,
        "width 768": {"n_embd": 768},
        "width 768 unscaled": {"n_embd": 768} | unscaled,
        "12 layers": {"n_layer": 12},
    }
    for name, fields in shapes.items():
        for std in STDS:
            yield Point(name=f"{name}, std {std}", std=std, fields=fields)
        for std in STDS if name in ("plain", "width 192", "50,257 tokens") else ():
            yield Point(name=f"{name}, massive, std {std}", std=std, fields=fields, massive=True)
            yield Point(name=f"{name}, low, std {std}", std=std, fields=fields, low=True)
            yield Point(name=f"{name}, massive and low, std {std}", std=std, fields=fields, massive=True, low=True)


def configs() -> dict[str, GPT2Config]:
    """The distinct configs of all points."""
    names: dict[GPT2Config, str] = {}
    for point in points():
        names.setdefault(point.config, point.name.rpartition(", std")[0])
    return {name: config for config, name in names.items()}
