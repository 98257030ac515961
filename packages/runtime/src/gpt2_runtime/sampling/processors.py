"""Logits processors: each changes logits [V] in place, depending on the tokens of the text so far.

T tokens of text, N tokens that a processor names, V vocabulary. `sampler.py` gives their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.floating]  # [V]
Ids = npt.NDArray[np.int64]  # [T] or [N]

# Sequences of one length P + 1: all but the last id of each, [N, P], and the last ones, [N].
Endings = tuple[tuple[Ids, Ids], ...]


def add_bias(logits: Logits, ids: Ids, bias: npt.NDArray[np.floating]) -> None:
    """Adds to each of `ids` [N] its bias [N].

    >>> logits = np.zeros(3)
    >>> add_bias(logits, np.array([2, 0]), np.array([1.5, -np.inf]))
    >>> logits
    array([-inf,  0. ,  1.5])
    """
    logits[ids] += bias


def penalise_repetition(logits: Logits, text: Ids, penalty: float) -> None:
    """Makes each token of the text less likely, once: divides its logit if positive, else multiplies it.

    >>> logits = np.array([4.0, -4.0, 1.0])
    >>> penalise_repetition(logits, np.array([1, 0, 0]), 2.0)
    >>> logits
    array([ 2., -8.,  1.])
    """
    seen = logits[text]
    logits[text] = np.where(seen < 0, seen * penalty, seen / penalty)


def penalise_counts(logits: Logits, new: Ids, frequency: float, presence: float) -> None:
    """Subtracts `frequency` from each token of the new text for each occurrence, and `presence` once.

    >>> logits = np.zeros(3)
    >>> penalise_counts(logits, np.array([0, 2, 2]), frequency=0.5, presence=1.0)
    >>> logits
    array([-1.5,  0. , -2. ])
    """
    ids, counts = np.unique(new, return_counts=True)
    logits[ids] -= (frequency * counts + presence).astype(logits.dtype)


def forbid_repeated_ngrams(logits: Logits, text: Ids, size: int) -> None:
    """Forbids the tokens that would repeat a run of `size` tokens of the text.

    >>> logits = np.zeros(6)
    >>> forbid_repeated_ngrams(logits, np.array([1, 2, 3, 5, 1, 2]), 3)
    >>> logits
    array([  0.,   0.,   0., -inf,   0.,   0.])
    """
    if len(text) < size:
        return
    ends = np.arange(size - 1, len(text))  # of each run of the text
    for back in range(1, size):
        ends = ends[text[ends - back] == text[-back]]
        if not len(ends):
            return
    logits[text[ends]] = -np.inf


def forbid_words(logits: Logits, text: Ids, words: Endings) -> None:
    """Forbids the last id of each sequence if the text ends with all its other ids.

    >>> logits = np.zeros(5)
    >>> forbid_words(logits, np.array([3, 1]), endings([[4], [1, 0], [3, 1, 2], [1, 3, 1]]))
    >>> logits
    array([-inf,   0., -inf,   0., -inf])
    """
    for prefixes, lasts in words:
        length = prefixes.shape[1]
        if length <= len(text):
            logits[lasts[(prefixes == text[len(text) - length :]).all(axis=1)]] = -np.inf


def forbid(logits: Logits, ids: Iterable[int]) -> None:
    """Forbids these tokens; ignores ids outside the vocabulary, which are never generated.

    >>> logits = np.zeros(3)
    >>> forbid(logits, [1, 50256])
    >>> logits
    array([  0., -inf,   0.])
    """
    logits[[id_ for id_ in ids if 0 <= id_ < len(logits)]] = -np.inf


def endings(sequences: Iterable[Sequence[int]]) -> Endings:
    """The sequences, each of at least one id, in the form that `forbid_words` takes."""
    by_length: dict[int, list[Sequence[int]]] = {}
    for sequence in sequences:
        by_length.setdefault(len(sequence), []).append(sequence)
    arrays = (np.array(alike, dtype=np.int64) for alike in by_length.values())
    return tuple((array[:, :-1], array[:, -1]) for array in arrays)
