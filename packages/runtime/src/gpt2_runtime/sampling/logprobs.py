"""Logits -> natural logarithms of probabilities. V vocabulary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gpt2_runtime.errors import LogitsError


def log_softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Logits [..., V] -> log-probabilities [..., V].

    Raises:
        LogitsError: a logit is NaN or infinite.

    >>> log_softmax(np.log([1.0, 3.0])).round(3).tolist()
    [-1.386, -0.288]
    """
    exact = logits.astype(np.float64)
    highest = exact.max(axis=-1, keepdims=True)
    if not np.isfinite(highest).all():
        raise LogitsError(f"highest logit is {highest.max()}, must be finite; the weights or the graph are damaged")
    exact -= highest
    return np.asarray(exact - np.log(np.exp(exact).sum(axis=-1, keepdims=True)))


def likeliest(logprobs: npt.NDArray[np.float64], count: int) -> tuple[tuple[int, float], ...]:
    """The `count` likeliest tokens of [V] and their log-probabilities, likeliest first; the lower id if two tie.

    >>> likeliest(np.array([-3.0, -1.0, -2.0, -1.0]), 2)
    ((1, -1.0), (3, -1.0))
    """
    if not count:
        return ()
    kth = np.partition(logprobs, -min(count, len(logprobs)))[-min(count, len(logprobs))]
    ids = np.flatnonzero(logprobs >= kth)
    ids = ids[np.argsort(-logprobs[ids], kind="stable")][:count]
    return tuple((int(id_), float(logprobs[id_])) for id_ in ids)
