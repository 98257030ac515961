"""The network in float64, the reference for everything in float32.

The weights stay float32 and memory-mapped. Each block is widened when its turn comes, for all texts at once, and the
head some rows at a time, so there is never a second copy of the model. A text is read in one call, without a cache, so
that splitting it into calls cannot go wrong here.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gpt2_model import GPT2
from gpt2_model.gpt2 import causal_mask
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from gpt2_export.verification.sweep import Case

HEAD_ROWS = 8192  # of the head widened at once: 50 to 105 MB for the published sizes

Truth = Callable[[Sequence[Case]], list[np.ndarray]]
"""Cases -> the float64 logits (B, T, V) of each case's second call."""


def load(folder: Path) -> Truth:
    """The float64 reference of a frozen folder."""
    return partial(logits, GPT2.from_pretrained(folder))


@torch.no_grad()
def logits(model: GPT2, cases: Sequence[Case]) -> list[np.ndarray]:
    """The logits (B, T, V) of each case's second call.

    >>> from gpt2_export.verification.sweep import cases
    >>> from gpt2_model import GPT2Config
    >>> model = GPT2(GPT2Config(vocab_size=9, n_positions=4, n_embd=6, n_layer=2, n_head=2)).eval()
    >>> results = logits(model, cases(vocab_size=9, n_positions=4))
    >>> results[0].shape, str(results[0].dtype)
    ((1, 1, 9), 'float64')
    """
    *_, last = streams(model, cases)
    return [head(model, stream[:, case.past :]).numpy() for stream, case in zip(last, cases, strict=True)]


@torch.no_grad()
def streams(model: GPT2, cases: Sequence[Case]) -> Iterator[list[Tensor]]:
    """The stream (B, P+T, C) of each case before the first block, then after each block in turn."""
    texts = [
        [torch.from_numpy(array) for array in (case.input_ids, case.position_ids, case.attention_mask)]
        for case in cases
    ]
    streams = [model.wte(ids).double() + model.wpe(places).double() for ids, places, _ in texts]  # (B, P+T, C)
    masks = [causal_mask(mask, mask.shape[1]) for *_, mask in texts]  # (B, P+T) -> (B, 1, P+T, P+T)
    yield streams
    for layer, block in enumerate(model.h):
        wide = {name: parameter.double() for name, parameter in block.named_parameters()}
        streams = [
            functional_call(block, wide, (x, model.empty_cache(len(x))[layer], mask))[0]
            for x, mask in zip(streams, masks, strict=True)
        ]
        yield streams


@torch.no_grad()
def head(model: GPT2, stream: Tensor) -> Tensor:
    """The logits of a stream, after the last block or any other: (B, T, C) -> (B, T, V)."""
    norm = model.ln_f
    x = F.layer_norm(stream, norm.normalized_shape, norm.weight.double(), norm.bias.double(), norm.eps)
    return torch.cat([x @ rows.double().T for rows in torch.split(model.lm_head.weight, HEAD_ROWS)], dim=-1)
