"""The plain decode loop, kept obvious: the reference for the faster ones."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from gpt2_model.gpt2 import GPT2


def generate(
    model: GPT2,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Yields the tokens after the prompt, one by one.

    Stops after `max_new_tokens`, at `eos_token_id` (which is not yielded), or when the context is full: the model reads
    at most n_positions tokens, and the last one yielded need not be read.

    Args:
        model: in eval mode.
        prompt_ids: 1 to n_positions token ids, each below the vocabulary's size.
        max_new_tokens: the most tokens to yield, 0 or more.
        temperature: 0, the default, is greedy: always the likeliest token; else above 0.
        top_k: sample from the k likeliest tokens; None means all.
        top_p: sample from the smallest set of likeliest tokens whose probabilities reach p, 0 < p <= 1; None means all.
        eos_token_id: the token that ends a text, 50256 for the published models; None means no such token.
        generator: source of random numbers; seed it to repeat a text.

    Raises:
        ValueError: an argument is out of range.

    >>> from gpt2_model import GPT2Config
    >>> model = GPT2(GPT2Config(vocab_size=100, n_positions=16, n_embd=12, n_layer=2, n_head=3)).eval()
    >>> len(list(generate(model, [7, 8, 9], max_new_tokens=5)))
    5
    >>> rng = torch.Generator().manual_seed(0)
    >>> len(list(generate(model, [7], max_new_tokens=99, temperature=0.8, top_k=10, generator=rng)))
    16
    """
    _check(model, prompt_ids, max_new_tokens, temperature, top_k, top_p)
    choice = partial(choose, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
    return _decode(model, list(prompt_ids), max_new_tokens, choice, eos_token_id)


@torch.no_grad()
def _decode(
    model: GPT2,
    unread: list[int],
    max_new_tokens: int,
    choice: Callable[[Tensor], int],
    eos_token_id: int | None,
) -> Iterator[int]:
    cache, room = None, model.config.n_positions - len(unread)
    for _ in range(min(max_new_tokens, room + 1)):  # the last token need not be read
        logits, cache = model(torch.tensor([unread], device=model.wte.weight.device), cache)
        token = choice(logits[0, -1])
        if token == eos_token_id:
            return
        yield token
        unread = [token]


def choose(
    logits: Tensor,
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> int:
    """A token id from the logits (V,): the likeliest at temperature 0, else a sample of the filtered distribution."""
    if temperature == 0:
        return int(logits.argmax())
    logits = logits / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    return int(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """The k largest logits (V,) and any equal to the kth; -inf elsewhere."""
    kth = logits.topk(min(k, logits.shape[-1])).values[-1]
    return logits.masked_fill(logits < kth, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The fewest largest logits (V,) whose probabilities reach p; -inf elsewhere. At least one is kept."""
    ordered, order = logits.sort(descending=True)
    probabilities = ordered.softmax(dim=-1)
    reached_before = probabilities.cumsum(dim=-1) - probabilities >= p
    reached_before[0] = False
    return logits.masked_fill(reached_before.scatter(0, order, reached_before), -torch.inf)


def _check(
    model: GPT2,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    limit, vocab_size = model.config.n_positions, model.config.vocab_size
    if not 1 <= len(prompt_ids) <= limit:
        raise ValueError(f"prompt has {len(prompt_ids)} tokens, the model reads 1 to {limit}; change the prompt")
    invalid = [token for token in prompt_ids if not 0 <= token < vocab_size]
    if invalid:
        raise ValueError(f"token id {invalid[0]} in the prompt; the vocabulary has ids 0 to {vocab_size - 1}")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be 0 or more")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; it must be 0 (greedy) or a positive number")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be 1 or more, or None for all tokens")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be above 0 and at most 1, or None for all tokens")
