"""What goes on inside: attention and lens as the explaining graph shows them, beside those of the scratch network.

Of the network they are read where they arise, by hooks: attention is what its dropout is given, the lens reads the
stream that the first block is given and that each block gives. None of it is the code that the graph is traced from.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpt2_model import GPT2
from torch import Tensor

from gpt2_export import backends
from gpt2_export.explaining import EXPLAINING

TEXTS = ((1, 1), (2, 32))  # rows and tokens
GUESSES = 5
ABSOLUTE, RELATIVE = 1e-4, 1e-5  # as in `verify`; a layer's lens may have larger logits than the network


@torch.no_grad()
def compare(folder: Path) -> dict[str, Any]:
    """How far the graph is from the network: its logits, the weights of its attention, the lens's log-probabilities.

    The lens's guesses must have the largest log-probabilities that there are, and be the tokens that have them.
    """
    config, session = backends.open_graph(EXPLAINING, folder)
    model = GPT2.from_pretrained(folder)
    count = min(GUESSES, config.vocab_size)
    rng = np.random.default_rng(2)
    off: dict[str, list[float]] = {"logit": [], "attention": [], "lens": []}
    largest = 0.0
    for rows, tokens in TEXTS:
        ids, targets = rng.integers(config.vocab_size, size=(2, rows, min(tokens, config.n_positions)))
        feeds = {"input_ids": ids, "target_ids": targets, "top_k": np.array(count)}
        logits, guesses, log_probs, target_log_probs, *attentions = session.run(None, feeds)
        streams, expected = watched(model, ids)
        off["attention"].append(np.abs(np.stack(attentions) - expected).max())
        for layer, stream in enumerate(streams):
            exact = model.lm_head(model.ln_f(stream)).double()  # (B, T, V); a layer's at a time, for they are large
            largest = max(largest, float(exact.abs().max()))
            if layer == config.n_layer:
                off["logit"].append(np.abs(logits - exact.numpy()).max())
            exact = exact.log_softmax(dim=-1)
            pairs = (
                (log_probs[layer], exact.topk(count).values),
                (log_probs[layer], exact.gather(-1, torch.from_numpy(guesses[layer]))),
                (target_log_probs[layer], exact.gather(-1, torch.from_numpy(targets)[..., None])[..., 0]),
            )
            off["lens"] += [np.abs(found - theirs.numpy()).max() for found, theirs in pairs]
    figures: dict[str, Any] = {f"max_{what}_difference": float(np.max(found)) for what, found in off.items()}
    return figures | {"tolerance": max(ABSOLUTE, RELATIVE * largest)}


def beyond(figures: dict[str, Any]) -> list[str]:
    """What in the figures is not to be accepted.

    >>> figures = {"max_logit_difference": 2e-5, "max_attention_difference": 2e-4, "max_lens_difference": 2e-4}
    >>> beyond(figures | {"tolerance": 3e-4})
    ['attention differs by 0.0002, limit 0.0001']
    """
    limits = {"logit": figures["tolerance"], "attention": ABSOLUTE, "lens": figures["tolerance"]}
    found = {what: figures[f"max_{what}_difference"] for what in limits}
    return [
        f"{what} differs by {found[what]:.3g}, limit {limit:.3g}"
        for what, limit in limits.items()
        if not found[what] <= limit  # so that NaN fails too
    ]


@torch.no_grad()
def watched(model: GPT2, ids: np.ndarray) -> tuple[list[Tensor], np.ndarray]:
    """The stream (B, T, C) before the first block and after each, and all attention (L, B, H, T, T)."""
    streams: list[Tensor] = []
    attentions: list[Tensor] = []
    blocks: list[Any] = list(model.h)
    hooks = [blocks[0].register_forward_pre_hook(lambda _, given: streams.append(given[0]))]
    for block in blocks:
        hooks.append(block.register_forward_hook(lambda _, __, made: streams.append(made[0])))
        hooks.append(block.attn.attn_dropout.register_forward_pre_hook(lambda _, given: attentions.append(given[0])))
    model(torch.from_numpy(ids))
    for hook in hooks:
        hook.remove()
    return streams, torch.stack(attentions).numpy()
