"""The largest activation of the network, which float16 must be able to hold."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpt2_model import GPT2
from torch import Tensor, nn

LOUD_TOKENS = 64


def largest(folder: Path, texts: Iterable[np.ndarray]) -> tuple[str, float]:
    """The layer and the size of the largest activation, in float32; NaN counts as infinite.

    Args:
        folder: a frozen checkpoint.
        texts: token ids [T] to read, in addition to the stress inputs made here.
    """
    model = GPT2.from_pretrained(folder)
    sizes: dict[str, float] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, read: tuple[Tensor, ...], made: Tensor) -> None:
            size = max(float(tensor.abs().max()) for tensor in (read[0], made))
            sizes[name] = max(sizes.get(name, 0.0), size if np.isfinite(size) else np.inf)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":  # the head is computed in float32
            module.register_forward_hook(watch(name))
    limit = model.config.n_positions
    with torch.no_grad():
        for ids in (*texts, *stress_inputs(model)):
            model(torch.from_numpy(np.asarray(ids)[None, :limit]))
    name = max(sizes, key=lambda layer: sizes[layer])
    return name, sizes[name]


def stress_inputs(model: GPT2) -> list[np.ndarray]:
    """Unnatural texts: the longest embeddings in a row, and the longest one and token 0 repeated.

    Trained networks have their largest activations at repeated tokens and at the first of a text.
    """
    T = min(LOUD_TOKENS, model.config.n_positions)
    order = model.wte.weight.norm(dim=1).argsort(descending=True).numpy()
    return [order[:T], np.full(T, order[0]), np.zeros(T, np.int64)]
