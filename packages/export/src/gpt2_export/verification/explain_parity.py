"""Compares the explain graph's attention and lens with those of the network in float64.

The network's are read by hooks where they arise: attention is the input of its dropout, the lens reads the first
block's input and each block's output. None of it is the code that the graph is traced from.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpt2_model import GPT2
from torch import Tensor

from gpt2_export.folder.reports import Deviation
from gpt2_export.graphs.explain import EXPLAIN
from gpt2_export.verification import backends, truth
from gpt2_export.verification.sweep import Case
from gpt2_export.verification.tolerance import Limit
from gpt2_export.verification.tolerance import limit as usual

TEXTS = ((1, 1), (2, 32))  # rows and tokens
GUESSES = 5
SHOWN = ("logit", "attention", "lens")


@torch.no_grad()
def compare(folder: Path, limit: Limit = usual) -> dict[str, Deviation]:
    """For logits, attention weights and the lens's log-probabilities: the graph's error, torch's, and the limit.

    The lens's predictions must have the largest log-probabilities, and be the tokens that have them.
    """
    config, session = backends.open_graph(EXPLAIN, folder)
    model = GPT2.from_pretrained(folder)
    count = min(GUESSES, config.vocab_size)
    rng = np.random.default_rng(2)
    # For each of SHOWN, the errors and the largest number.
    errors, own_errors, largest = ({what: [0.0] for what in SHOWN} for _ in range(3))

    def add(what: str, exact: Tensor, actual: Tensor, own: Tensor) -> None:
        errors[what].append(float((actual.double() - exact).abs().max()))
        own_errors[what].append(float((own.double() - exact).abs().max()))
        largest[what].append(float(exact.abs().max()))

    for rows, tokens in TEXTS:
        ids, targets = rng.integers(config.vocab_size, size=(2, rows, min(tokens, config.n_positions)))
        feeds = {"input_ids": ids, "target_ids": targets, "top_k": np.array(count)}
        logits, guesses, log_probs, target_log_probs, *attentions = map(torch.from_numpy, session.run(None, feeds))
        text = Case(name="text", input_ids=ids, attention_mask=np.ones_like(ids), past=0)
        with attention_of(model) as exact_attentions:
            exact_streams = [stream for (stream,) in truth.streams(model, [text])]
        with attention_of(model) as own_attentions:
            own_streams = streams(model, ids)
        for exact, actual, own in zip(exact_attentions, attentions, own_attentions, strict=True):
            add("attention", exact, actual, own)
        for layer, (exact, own) in enumerate(zip(exact_streams, own_streams, strict=True)):
            exact = truth.head(model, exact)  # (B, T, V); one layer at a time, to save memory
            own = model.lm_head(model.ln_f(own))
            if layer == config.n_layer:
                add("logit", exact, logits, own)
            exact, own = exact.log_softmax(dim=-1), own.log_softmax(dim=-1)
            add("lens", exact.topk(count).values, log_probs[layer], own.topk(count).values)
            for found, places in (
                (log_probs[layer], guesses[layer]),
                (target_log_probs[layer][..., None], torch.from_numpy(targets)[..., None]),
            ):
                add("lens", exact.gather(-1, places), found, own.gather(-1, places))
    # By numpy: Python's max() loses a NaN.
    return {
        what: {
            "max_difference": float(np.max(errors[what])),
            "float32_error": float(np.max(own_errors[what])),
            "tolerance": limit(float(np.max(largest[what])), float(np.max(own_errors[what]))),
        }
        for what in SHOWN
    }


def beyond(figures: dict[str, Deviation]) -> list[str]:
    """The figures beyond their limits.

    >>> fine = {"max_difference": 2e-5, "float32_error": 1e-5, "tolerance": 1e-4}
    >>> beyond({"logit": fine, "attention": fine | {"max_difference": 2e-4}})
    ['attention differs by 0.0002, limit 0.0001']
    """
    return [
        f"{what} differs by {found['max_difference']:.3g}, limit {found['tolerance']:.3g}"
        for what, found in figures.items()
        if not found["max_difference"] <= found["tolerance"]  # NaN fails too
    ]


@torch.no_grad()
def streams(model: GPT2, ids: np.ndarray) -> list[Tensor]:
    """The stream (B, T, C) before the first block and after each, in the network's own dtype."""
    found: list[Tensor] = []
    blocks: list[Any] = list(model.h)
    hooks = [blocks[0].register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))]
    hooks += [block.register_forward_hook(lambda _, __, made: found.append(made[0])) for block in blocks]
    model(torch.from_numpy(ids))
    for hook in hooks:
        hook.remove()
    return found


@contextmanager
def attention_of(model: GPT2) -> Iterator[list[Tensor]]:
    """The attention (B, H, T, T) of each block that runs inside the with-block."""
    found: list[Tensor] = []
    blocks: list[Any] = list(model.h)
    hooks = [
        block.attn.attn_dropout.register_forward_pre_hook(lambda _, given: found.append(given[0])) for block in blocks
    ]
    yield found
    for hook in hooks:
        hook.remove()
