"""The shapes on which every rung of the ladder is tested, and the one check that all rungs must pass.

The expected answer never depends on shapes: it is the rung below on each row's text alone, read in one call. The rung
under test reads the same text in a batch, padded, and in several calls. So any dependence on the batch, the padding,
the positions or the cache shows as a wrong logit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Step = Callable[[Array, Array, Any], tuple[Array, Any]]
"""(ids (B, T), mask (B, P+T), cache or None at the start) -> (logits (B, T, V), cache)."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A batch, and how it is split into calls.

    Attributes:
        ids: (B, P+T).
        mask: (B, P+T), 1 for text and 0 for padding.
        chunks: the tokens of each call; they add up to P+T.
    """

    name: str
    ids: Array
    mask: Array
    chunks: tuple[int, ...]


def cases(*, vocab_size: int, n_positions: int) -> Iterator[Case]:
    """Batches of 1 and 3, padded left, right or not; past 0, 1, n and all but one; one token and more.

    >>> len([case for case in cases(vocab_size=97, n_positions=80) if not case.mask.all()])
    8
    """
    rng = np.random.default_rng(0)
    n, half = 11, n_positions // 2
    for chunks in (
        (1,),
        (n,),
        (1, 1),
        (1, n),
        (n, 1),
        (n, 7),
        (3, 1, 4, 1, 5),
        (half, n_positions - half),
        (n_positions - 1, 1),
        (n_positions,),
    ):
        length = sum(chunks)
        for rows, padding in ((1, ""), (3, ""), (3, "left"), (3, "right")):
            if rows > 1 and length == n_positions:
                continue  # the whole context is slow, and batches are tested above
            if padding and chunks[0] == 1:
                continue  # the padding is in the first call, with at least one token of text
            mask = np.ones((rows, length), dtype=np.int64)
            for row, width in enumerate((0, 1, chunks[0] - 1) if padding else ()):
                mask[row, slice(width) if padding == "left" else slice(chunks[0] - width, chunks[0])] = 0
            name = f"{rows} x {'+'.join(map(str, chunks))} {padding}".rstrip()
            yield Case(name=name, ids=rng.integers(vocab_size, size=mask.shape), mask=mask, chunks=chunks)


def read(step: Step, case: Case) -> Array:
    """The logits (B, P+T, V) of a case, read in its chunks."""
    logits, cache, start = [], None, 0
    for size in case.chunks:
        end = start + size
        part, cache = step(case.ids[:, start:end], case.mask[:, :end], cache)
        logits.append(part)
        start = end
    return np.concatenate(logits, axis=1)


def alone(step: Step, case: Case) -> list[Array]:
    """For each row the logits (length of its text, V), with its text alone, unpadded, in one call."""
    texts = [ids[mask == 1][None] for ids, mask in zip(case.ids, case.mask, strict=True)]
    return [step(text, np.ones_like(text), None)[0][0] for text in texts]


def largest_difference(reference: Step, tried: Step, case: Case) -> float:
    """The largest difference at any position with text; NaN if any logit is NaN, which Python's max() would lose."""
    rows = zip(alone(reference, case), read(tried, case), case.mask, strict=True)
    return float(np.max([np.abs(expected - row[mask == 1]).max() for expected, row, mask in rows]))


def assert_same_logits(
    reference: Step, tried: Step, *, vocab_size: int, n_positions: int, atol: float, padded: bool = True
) -> None:
    """The check of every rung: on each case, no logit differs by more than `atol`.

    Args:
        padded: whether the step under test can read padded batches.
    """
    for case in cases(vocab_size=vocab_size, n_positions=n_positions):
        if padded or case.mask.all():
            assert_case(reference, tried, case, atol)


def assert_case(reference: Step, tried: Step, case: Case, atol: float) -> None:
    """The check on one case."""
    difference = largest_difference(reference, tried, case)
    assert difference <= atol, f"{case.name}: a logit differs by {difference:.3g}, the limit is {atol:.3g}"


def greedy(step: Step, prompt: list[int], count: int) -> Iterator[int]:
    """`count` greedy tokens after a prompt, each read in its own call."""
    unread, length, cache = np.array([prompt]), 0, None
    for _ in range(count):
        length += unread.shape[1]
        logits, cache = step(unread, np.ones((1, length), dtype=np.int64), cache)
        token = int(logits[0, -1].argmax())
        yield token
        unread = np.array([[token]])
