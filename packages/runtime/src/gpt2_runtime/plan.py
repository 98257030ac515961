"""How a step is cut into runs of the serving graph, and what each run is fed. Lengths in, numbers out.

B rows, T tokens of a run, K logits asked for after each row.

GroupQueryAttention takes several rows at once where each reads one token, or where all are empty so far. A row that
reads several tokens over those it has is a run of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

# One run more takes about as long as so many tokens more in a run: on the CPU it reads all weights again.
RUN_COST = 16

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """One call of the graph, over consecutive rows.

    Attributes:
        first: the first of its rows.
        reads: which of its new tokens each row reads. Of one that reads none the graph still computes one token, which
            is written beyond the end of the row's text, and never counted.
    """

    first: int
    reads: tuple[range, ...]

    @cached_property
    def tokens(self) -> int:
        """T: the longest of the reads."""
        return max(map(len, self.reads))


def plan(past: Sequence[int], new: Sequence[int], chunk: int, run_cost: int = RUN_COST) -> list[Run]:
    """The runs of a step.

    Args:
        past: the tokens that each row has, [B].
        new: those that it reads, [B]; 0 leaves it as it is.
        chunk: the most tokens of one run, padding included.
        run_cost: how many tokens of padding are spent for one run less.

    >>> plan([9, 0, 4], [1, 0, 1], chunk=256)  # every row by one token: one run; the idle one goes along
    [Run(first=0, reads=(range(0, 1), range(0, 0), range(0, 1)))]
    >>> plan([0, 0], [3, 2], chunk=256)  # two empty rows: one run, padded on the right
    [Run(first=0, reads=(range(0, 3), range(0, 2)))]
    >>> plan([0, 5], [7, 2], chunk=4)  # a long row in chunks, and one that is not empty by itself
    [Run(first=0, reads=(range(0, 4),)), Run(first=0, reads=(range(4, 7),)), Run(first=1, reads=(range(0, 2),))]
    """
    together = _fresh(past, new, chunk, run_cost)
    joined = set(chain.from_iterable(together))
    rest = [row for row, count in enumerate(new) if count and row not in joined]
    by_one = [row for row in rest if new[row] == 1]
    # These come first: what they write for a row that reads in a run of its own lies where that run writes after them.
    runs = []
    if by_one:
        first, last = by_one[0], by_one[-1]
        reads = [range(0)] * (last - first + 1)
        for row in by_one:
            reads[row - first] = range(1)
        runs.append(Run(first, tuple(reads)))
    runs += [Run(rows.start, tuple(range(new[row]) for row in rows)) for rows in together]
    for row in rest:
        if new[row] > 1:
            cuts = [*range(0, new[row], chunk), new[row]]
            runs += [Run(row, (range(start, stop),)) for start, stop in pairwise(cuts)]
    return runs


def _fresh(past: Sequence[int], new: Sequence[int], chunk: int, run_cost: int) -> list[range]:
    """Consecutive empty rows, two and more, of which padding them to one length is cheaper than a run for each."""
    if max(new) <= 1:  # a step of decoding: nothing to pad, and no time to lose
        return []
    groups, first = [], 0
    for end in range(1, len(new) + 1):
        if end < len(new) and _cheaper(past[first : end + 1], new[first : end + 1], chunk, run_cost):
            continue
        if end - first > 1 and max(new[first:end]) > 1:
            groups.append(range(first, end))
        first = end
    return groups


def _cheaper(past: Sequence[int], new: Sequence[int], chunk: int, run_cost: int) -> bool:
    padded = len(new) * max(new)
    return not any(past) and all(new) and padded <= min(chunk, sum(new) + run_cost * (len(new) - 1))


def feeds(run: Run, rows: Sequence[Ids], past: Sequence[int], keep: int) -> dict[str, npt.NDArray[np.integer]]:
    """What the graph is fed in a run, by the names of its inputs.

    Args:
        run: one of the step.
        rows: the new tokens of every row of the step, [B] of [any length].
        past: the tokens of every row before the step, [B].
        keep: K.

    >>> rows = [np.array([5]), np.array([6, 7, 8]), np.array([9])]
    >>> for name, array in feeds(Run(1, (range(0, 3), range(0, 1))), rows, [4, 0, 0], keep=1).items():
    ...     print(name, array.tolist())
    input_ids [[6, 7, 8], [9, 0, 0]]
    position_ids [[0, 1, 2], [0, 0, 0]]
    seqlens_k [2, 0]
    total_sequence_length 3
    logits_index [2, 3]
    """
    T = run.tokens
    # Lists: an array for each of hundreds of rows would take longer to make than a GPU takes for the step.
    input_ids: list[list[int]] = []
    position_ids: list[list[int]] = []
    seqlens_k: list[int] = []
    for row, read in enumerate(run.reads, run.first):
        count, before = len(read), past[row] + read.start
        padding = [0] * (T - count)
        input_ids.append(rows[row][read.start : read.stop].tolist() + padding)
        position_ids.append([*range(before, before + count), *padding])
        seqlens_k.append(before + max(1, count) - 1)
    return {
        "input_ids": np.array(input_ids, dtype=np.int64),
        "position_ids": np.array(position_ids, dtype=np.int64),
        "seqlens_k": np.array(seqlens_k, dtype=np.int32),
        "total_sequence_length": np.array(max(seqlens_k) + 1, dtype=np.int32),
        "logits_index": np.array(
            [place * T + token - run.reads[place].start for place, token in _scored(run, rows, keep)], dtype=np.int64
        ),
    }


def places(run: Run, rows: Sequence[Ids], keep: int) -> list[tuple[int, int]]:
    """Where a run's logits belong in the step's [B, K, V]: for each a row, and one of its K places.

    >>> places(Run(1, (range(0, 3), range(0, 1))), [np.array([5]), np.array([6, 7, 8]), np.array([9])], keep=2)
    [(1, 0), (1, 1), (2, 1)]
    """
    return [
        (run.first + place, keep - len(rows[run.first + place]) + token) for place, token in _scored(run, rows, keep)
    ]


def _scored(run: Run, rows: Sequence[Ids], keep: int) -> list[tuple[int, int]]:
    """Each token of a run among the last K of its row: the row's place in the run, and the token's in the row."""
    return [
        (place, token)
        for place, read in enumerate(run.reads)
        for token in range(max(read.start, len(rows[run.first + place]) - keep), read.stop)
    ]
