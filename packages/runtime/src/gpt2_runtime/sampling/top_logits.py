"""The few tokens that the next one is among, found by the highest logits alone. N rows, V vocabulary, K tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class TopLogits(NamedTuple):
    """The tokens of the highest logits after a token of the text.

    Attributes:
        ids: [K], ascending.
        logits: [K].
        reach: none but these are among the `reach` highest, or tie with the last of those.
    """

    ids: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    reach: int


class Highest(NamedTuple):
    """The M highest logits of each row, as a device finds them.

    Attributes:
        values: [N, M], descending.
        ids: [N, M], of which tokens; of equals any come first, and any are left out.
        finite: [N], whether all V logits of the row are. Of others nothing is known.
        vocab_size: V.
    """

    values: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int64]
    finite: npt.NDArray[np.bool_]
    vocab_size: int


def top_logits(highest: Highest, counts: Sequence[int]) -> list[TopLogits | None]:
    """Each row's shortlist of so many tokens, at most M; None where one that ties with the last of them may be lacking.

    >>> values, ids = np.array([[5, 3, 3], [5, 4, 3]], np.float32), np.array([[7, 2, 9], [4, 1, 0]])
    >>> highest = Highest(values, ids, np.array([True, True]), vocab_size=10)
    >>> top_logits(highest, [2, 2])[0] is None  # a fourth could be 3 too
    True
    >>> top_logits(highest, [2, 2])[1].ids.tolist()
    [1, 4]
    """
    values, ids, finite, vocab_size = highest
    rows, most = values.shape
    lowest = values[np.arange(rows), np.minimum(counts, most) - 1]  # [N]: the last that is asked for
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
