"""The few tokens that the next one is chosen from, taken from the highest logits. N rows, V vocabulary, K tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class TopLogits(NamedTuple):
    """The tokens with the highest logits at one position.

    Attributes:
        ids: [K], ascending.
        logits: [K].
        reach: these are all the tokens among the `reach` highest, or tied with the last of those.
    """

    ids: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    reach: int


class Highest(NamedTuple):
    """The M highest logits of each row, as computed on a device.

    Attributes:
        values: [N, M], descending.
        ids: [N, M], their tokens; ties come in any order, and any of them may be left out.
        finite: [N], whether all V logits of the row are finite. If not, its other values mean nothing.
        vocab_size: V.
    """

    values: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int64]
    finite: npt.NDArray[np.bool_]
    vocab_size: int


def top_logits(highest: Highest, counts: Sequence[int]) -> list[TopLogits | None]:
    """The `counts` highest of each row, at most M; None where a token that ties with the last one may be missing.

    >>> values, ids = np.array([[5, 3, 3], [5, 4, 3]], np.float32), np.array([[7, 2, 9], [4, 1, 0]])
    >>> highest = Highest(values, ids, np.array([True, True]), vocab_size=10)
    >>> top_logits(highest, [2, 2])[0] is None  # another token could have 3 too
    True
    >>> top_logits(highest, [2, 2])[1].ids.tolist()
    [1, 4]
    """
    values, ids, finite, vocab_size = highest
    rows, most = values.shape
    lowest = values[np.arange(rows), np.minimum(counts, most) - 1]  # [N]: the last one requested
    known = finite & ((lowest > values[:, -1]) | (most == vocab_size))
    stays = values >= lowest[:, None]
    order = np.argsort(np.where(stays, ids, vocab_size), axis=1)
    ids, values = np.take_along_axis(ids, order, axis=1), np.take_along_axis(values, order, axis=1)
    return [
        TopLogits(ids[row, :length], values[row, :length], count) if is_known else None
        for row, (is_known, length, count) in enumerate(
            zip(known.tolist(), np.count_nonzero(stays, axis=1).tolist(), counts, strict=True)
        )
    ]
