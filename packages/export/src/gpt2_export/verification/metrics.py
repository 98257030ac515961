"""The measures between the logits of two backends."""

import numpy as np

from gpt2_export.verification import backends
from gpt2_export.verification.sweep import Ids


def greedy(step: backends.Step, prompt: Ids, count: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """`count` greedy tokens after the prompt (1, T), and the margin of each over the second likeliest."""
    ids: list[int] = []
    margins: list[float] = []
    unread, length, cache = prompt, 0, None
    for _ in range(count):
        positions = np.arange(length, length + unread.shape[1])[None]
        length += unread.shape[1]
        logits, cache = step(unread, np.ones((1, length), np.int64), positions, cache)
        last = logits[0, -1]
        ids.append(int(last.argmax()))
        margins.append(float(last[ids[-1]] - np.delete(last, ids[-1]).max(initial=-np.inf)))
        unread = np.array([[ids[-1]]])
    return tuple(ids), tuple(margins)


def kl(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """KL divergence, in nats, of each row's distribution: logits (N, V), (N, V) -> (N,).

    >>> kl(np.array([[0.0, 0.0]], np.float32), np.array([[0.0, np.log(3.0)]], np.float32)).round(4)
    array([0.1438])
    """
    log_p, log_q = _log_softmax(a), _log_softmax(b)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return np.asarray(np.maximum(divergence, 0.0))  # only rounding makes it negative


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide
