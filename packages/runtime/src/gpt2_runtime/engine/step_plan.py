"""How a step is split into runs of the serving graph, and the inputs of each run. Lengths in, numbers out.

B rows, T tokens of a run, K[b] logits requested after the last tokens of row b.

GroupQueryAttention takes several rows at once if each reads one token, or if all are still empty. A row that reads
several tokens after its first ones needs a run of its own.

onnxruntime multiplies rows of 8-bit and 4-bit blocks in pairs, and sums a last row without a partner in another order:
its last bits differ, and the next layer rounds some of them to another step. GroupQueryAttention sums in one order for
a row of one token, and in another for a row of several. So a prompt never leaves a single token to a run, and an `even`
plan gives each product an even number of rows: a token's result then depends only on its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

# An additional run costs about as much as this many additional tokens: on the CPU it reads all weights again.
RUN_COST = 16

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GraphCall:
    """One call of the graph, over consecutive rows.

    Attributes:
        first: the first of its rows.
        reads: which of its new tokens each row reads. For a row that reads none the graph still computes one token,
            written beyond the end of the row's text and never used.
        padding: tokens that each row computes beyond the longest of the reads; never used either.
    """

    first: int
    reads: tuple[range, ...]
    padding: int = 0

    @cached_property
    def tokens(self) -> int:
        """T: the longest of the reads, and the padding."""
        return max(map(len, self.reads)) + self.padding


def plan(
    past: Sequence[int], new: Sequence[int], chunk: int, run_cost: int = RUN_COST, *, even: bool = False
) -> list[GraphCall]:
    """The runs of a step.

    Args:
        past: the tokens that each row has, [B].
        new: the tokens that it reads, [B]; 0 leaves it unchanged.
        chunk: the most tokens of one run, padding included.
        run_cost: how many tokens of padding saving one run is worth.
        even: whether B * T must be even in every run; then the number of rows and the chunk must be even too.

    >>> plan([9, 0, 4], [1, 0, 1], chunk=256)  # every row by one token: one run, including the idle row
    [GraphCall(first=0, reads=(range(0, 1), range(0, 0), range(0, 1)), padding=0)]
    >>> plan([0, 0], [3, 2], chunk=256)  # two empty rows: one run, padded on the right
    [GraphCall(first=0, reads=(range(0, 3), range(0, 2)), padding=0)]
    >>> [run.reads for run in plan([0, 5], [7, 2], chunk=4)]  # a long row in chunks, a row with a past by itself
    [(range(0, 4),), (range(4, 7),), (range(0, 2),)]
    >>> plan([9, 0], [1, 0], chunk=256, even=True)  # one token, and an idle row beside it
    [GraphCall(first=0, reads=(range(0, 1), range(0, 0)), padding=0)]
    >>> [(run.reads, run.padding) for run in plan([0, 0], [9, 0], chunk=4, even=True)]
    [((range(0, 4),), 0), ((range(4, 7),), 1), ((range(7, 9),), 0)]
    """
    together = _fresh(past, new, chunk, run_cost)
    joined = set(chain.from_iterable(together))
    rest = [row for row, count in enumerate(new) if count and row not in joined]
    by_one = [row for row in rest if new[row] == 1]
    # These come first: what they write for a row that has its own run is overwritten by that run.
    runs = []
    if by_one:
        first, last = by_one[0], by_one[-1]
        reads = [range(0)] * (last - first + 1)
        for row in by_one:
            reads[row - first] = range(1)
        runs.append(GraphCall(first, tuple(reads)))
    runs += [GraphCall(rows.start, tuple(range(new[row]) for row in rows)) for rows in together]
    for row in rest:
        if new[row] > 1:
            runs += [GraphCall(row, (part,)) for part in chunks(new[row], chunk)]
    return [_evened(run, len(new)) for run in runs] if even else runs


def chunks(count: int, chunk: int) -> list[range]:
    """Splits a long text into chunks, but never leaves a last token by itself.

    >>> chunks(8, 4), chunks(9, 4)
    ([range(0, 4), range(4, 8)], [range(0, 4), range(4, 7), range(7, 9)])
    """
    cuts = [*range(0, count, chunk), count]
    if count > chunk > 2 and cuts[-1] - cuts[-2] == 1:
        cuts[-2] -= 1
    return [range(start, stop) for start, stop in pairwise(cuts)]


def _evened(run: GraphCall, rows: int) -> GraphCall:
    """The run with one more row of the step, or one more token per row, if B * T is odd."""
    if len(run.reads) * run.tokens % 2 == 0:
        return run
    if run.tokens > 1:
        return replace(run, padding=1)
    if run.first + len(run.reads) < rows:
        return GraphCall(run.first, (*run.reads, range(0)))
    return GraphCall(run.first - 1, (range(0), *run.reads))


def _fresh(past: Sequence[int], new: Sequence[int], chunk: int, run_cost: int) -> list[range]:
    """Groups of two or more consecutive empty rows for which padding to one length is cheaper than a run each."""
    if max(new) <= 1:  # a decode step: nothing to pad, and speed matters
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


def feeds(
    run: GraphCall, rows: Sequence[Ids], past: Sequence[int], keep: Sequence[int], *, even: bool = False
) -> dict[str, npt.NDArray[np.integer]]:
    """The inputs of the graph for a run, by name.

    Args:
        run: a run of the step.
        rows: the new tokens of every row of the step, [B] of [any length].
        past: the tokens of every row before the step, [B].
        keep: K, [B]; 0 leaves a row without logits.
        even: whether to compute the last of an odd number of logits twice.

    >>> rows = [np.array([5]), np.array([6, 7, 8]), np.array([9])]
    >>> for name, array in feeds(GraphCall(1, (range(0, 3), range(0, 1))), rows, [4, 0, 0], keep=[1, 1, 1]).items():
    ...     print(name, array.tolist())
    input_ids [[6, 7, 8], [9, 0, 0]]
    position_ids [[0, 1, 2], [0, 0, 0]]
    seqlens_k [2, 0]
    total_sequence_length 3
    logits_index [2, 3]
    """
    T = run.tokens
    # Lists, since making an array for each of hundreds of rows would take longer than a GPU takes for the step.
    input_ids: list[list[int]] = []
    position_ids: list[list[int]] = []
    seqlens_k: list[int] = []
    for row, read in enumerate(run.reads, run.first):
        count, before = len(read), past[row] + read.start
        padding = [0] * (T - count)
        input_ids.append(rows[row][read.start : read.stop].tolist() + padding)
        position_ids.append([*range(before, before + count), *padding])
        seqlens_k.append(before + max(1, count) + run.padding - 1)
    scored = [place * T + token - run.reads[place].start for place, token in _scored(run, rows, keep)]
    if even and len(scored) % 2:
        scored.append(scored[-1])
    return {
        "input_ids": np.array(input_ids, dtype=np.int64),
        "position_ids": np.array(position_ids, dtype=np.int64),
        "seqlens_k": np.array(seqlens_k, dtype=np.int32),
        "total_sequence_length": np.array(max(seqlens_k) + 1, dtype=np.int32),
        "logits_index": np.array(scored, dtype=np.int64),
    }


def logit_slots(run: GraphCall, rows: Sequence[Ids], keep: Sequence[int]) -> list[tuple[int, int]]:
    """Where a run's logits go in the step's logits: for each, the row and one of its K[b] slots.

    >>> call = GraphCall(1, (range(0, 3), range(0, 1)))
    >>> logit_slots(call, [np.array([5]), np.array([6, 7, 8]), np.array([9])], keep=[2, 2, 2])
    [(1, 0), (1, 1), (2, 1)]
    """
    return [
        (run.first + place, keep[run.first + place] - len(rows[run.first + place]) + token)
        for place, token in _scored(run, rows, keep)
    ]


def _scored(run: GraphCall, rows: Sequence[Ids], keep: Sequence[int]) -> list[tuple[int, int]]:
    """Each token of a run among the last K[b] of its row: the row's place in the run, and the token's in the row."""
    return [
        (place, token)
        for place, read in enumerate(run.reads)
        if read
        for token in range(max(read.start, len(rows[run.first + place]) - keep[run.first + place]), read.stop)
    ]
