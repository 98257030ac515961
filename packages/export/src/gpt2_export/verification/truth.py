"""The network in float64, which everything in float32 is measured against.

The weights stay as they are, float32 and mapped from the file. Each block's are widened when its turn comes, for all
texts at once, and the head's some rows at a time: at no time is there a second copy of the model. A text is read in one
piece, without a cache, so that nothing about cutting it into calls can be wrong here.
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

HEAD_ROWS = 8192  # of the head that are widened at once: 50 to 105 MB for the published sizes

Truth = Callable[[Sequence[Case]], list[np.ndarray]]
"""Cases -> of each the float64 logits (B, T, V) of what its second call reads."""


def load(folder: Path) -> Truth:
    """The truth about a frozen folder."""
    return partial(logits, GPT2.from_pretrained(folder))


@torch.no_grad()
def logits(model: GPT2, cases: Sequence[Case]) -> list[np.ndarray]:
    """Of each case the logits (B, T, V) of what its second call reads.

    >>> from gpt2_export.verification.sweep import cases
    >>> from gpt2_model import GPT2Config
    >>> model = GPT2(GPT2Config(vocab_size=9, n_positions=4, n_embd=6, n_layer=2, n_head=2)).eval()
    >>> found = logits(model, cases(vocab_size=9, n_positions=4))
    >>> found[0].shape, str(found[0].dtype)
    ((1, 1, 9), 'float64')
    """
    *_, last = streams(model, cases)
    return [head(model, stream[:, case.past :]).numpy() for stream, case in zip(last, cases, strict=True)]


@torch.no_grad()
def streams(model: GPT2, cases: Sequence[Case]) -> Iterator[list[Tensor]]:
    """Of each case the stream (B, P+T, C) before the first block, and then after each block in turn."""
    texts = [
        [torch.from_numpy(array) for array in (case.input_ids, case.position_ids, case.attention_mask)]
        for case in cases
    ]
    found = [model.wte(ids).double() + model.wpe(places).double() for ids, places, _ in texts]  # (B, P+T, C)
    masks = [causal_mask(mask, mask.shape[1]) for *_, mask in texts]  # (B, P+T) -> (B, 1, P+T, P+T)
    yield found
    for layer, block in enumerate(model.h):
        wide = {name: parameter.double() for name, parameter in block.named_parameters()}
        found = [
            functional_call(block, wide, (x, model.empty_cache(len(x))[layer], mask))[0]
            for x, mask in zip(found, masks, strict=True)
        ]
        yield found


@torch.no_grad()
def head(model: GPT2, stream: Tensor) -> Tensor:
    """The logits that a stream gives, the last block's or any other's: (B, T, C) -> (B, T, V)."""
    norm = model.ln_f
    x = F.layer_norm(stream, norm.normalized_shape, norm.weight.double(), norm.bias.double(), norm.eps)
    return torch.cat([x @ rows.double().T for rows in torch.split(model.lm_head.weight, HEAD_ROWS)], dim=-1)
