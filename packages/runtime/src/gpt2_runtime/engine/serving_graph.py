"""The serving graph: steps of rows of any lengths, over memory that past and present share.

L layers, B rows, H heads, D head size, K logits after each row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from gpt2_runtime.engine.buffer_pool import Pool
from gpt2_runtime.engine.buffers import Buffers, Cached, Move, allocated
from gpt2_runtime.engine.cache import KeyValueCache, Layout
from gpt2_runtime.engine.logits import Logits, Row
from gpt2_runtime.engine.packed_session import PackedSession
from gpt2_runtime.engine.step_plan import RUN_COST, GraphCall, Ids, feeds, logit_slots, plan
from gpt2_runtime.engine.top_k import TopK
from gpt2_runtime.errors import SettingError
from gpt2_runtime.folder.bundle import Architecture
from gpt2_runtime.providers.provider import HOST, TensorMemory

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
Taken = TypeVar("Taken")

# A long text is read in chunks of this many tokens. Each chunk reads all weights again, but saves more: half of the
# attention scores, [H, T, P + T], within a chunk are masked.
PREFILL_CHUNK = 256

# A GPU stores no scores, and launching the kernels of a run should take about as long as computing a thousand tokens;
# not measured.
DEVICE_CHUNK, DEVICE_RUN_COST = 8192, 1024

POOLED_CAPACITY = 256  # capacities in a pool are multiples of this

IDLE: Ids = np.empty(0, dtype=np.int64)
"""A row that reads nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedCache(KeyValueCache):
    """The lengths of the rows, and their buffers.

    Attributes:
        alike: [B, B], the number of first tokens that two rows are known to share, with equal memory.
        even: whether memory is allocated for an even number of rows; if B is odd, the last one is always idle.
    """

    owner: PackedSession
    buffers: Buffers
    version: int
    alike: Counts
    even: bool = False

    @property
    def layout(self) -> Layout:
        layers, both, _, heads, _, size = self.buffers.allocation.shape
        return (layers, both, heads, size), self.buffers.allocation.dtype

    def check_current(self) -> None:
        """Raises SettingError for a value that is used up."""
        if self.version != self.buffers.version:
            remedy = "continue with the one returned last, or its crop, or copy() before a step"
            raise SettingError(f"cache is of step {self.version}, its buffers of step {self.buffers.version}; {remedy}")

    def copy(self) -> SharedCache:
        self.check_current()
        with self.owner.turn:
            buffers = self.buffers.of(memory_rows(self.batch_size, self.even))
            buffers.take([Move(row, row, 0, length) for row, length in enumerate(self.lengths)], self.buffers)
        return replace(self, buffers=buffers, version=0)

    def _shortened(self, lengths: tuple[int, ...]) -> SharedCache:
        self.check_current()
        return replace(self, lengths=lengths, alike=np.minimum(self.alike, np.minimum.outer(lengths, lengths)))

    def _selected(self, rows: tuple[int, ...]) -> SharedCache:
        """Selects in place if there are enough rows, which all stay allocated; else in new memory.

        If a row replaces one with the same first tokens, as beams do, only the other tokens are copied.
        """
        self.check_current()
        buffers = self.buffers
        if len(rows) > self.buffers.allocation.shape[2]:
            with self.owner.turn:
                buffers = self.buffers.of(memory_rows(len(rows), self.even))
        alike = self.alike.copy()
        np.fill_diagonal(alike, self.lengths)
        moves = []  # of the positions that differ
        for place, row in enumerate(rows):
            start = int(alike[place, row]) if buffers is self.buffers and place < self.batch_size else 0
            if start < self.lengths[row]:
                moves.append(Move(row, place, start, self.lengths[row]))
        self.buffers.version += 1  # before writing, since an interrupted write counts too
        with self.owner.turn:
            buffers.take(moves, self.buffers)
        lengths = tuple(self.lengths[row] for row in rows)
        return replace(self, lengths=lengths, buffers=buffers, version=buffers.version, alike=alike[np.ix_(rows, rows)])

    def _read(self, row: int, length: int) -> Cached:
        self.check_current()
        with self.owner.turn:
            return self.buffers.read(row, length)

    def _written(self, row: int, text: Cached) -> SharedCache:
        self.check_current()
        self.buffers.version += 1  # before writing, since an interrupted write counts too
        with self.owner.turn:
            self.buffers.write(row, text)
        lengths = (*self.lengths[:row], text.shape[3], *self.lengths[row + 1 :])
        alike = self.alike.copy()
        alike[row] = alike[:, row] = 0
        return replace(self, lengths=lengths, version=self.buffers.version, alike=alike)


@dataclass(frozen=True, kw_only=True)
class ServingGraph:
    """The graph in onnxruntime; its keys and values have `cache_type`, in `tensors`, from `pool` if there is one.

    `top_k`, if any, selects the highest logits on a device. If `even`, a token's bits depend only on its text; see
    `plan`.
    """

    engine: PackedSession
    sizes: Architecture
    cache_type: npt.DTypeLike = np.float32
    tensors: TensorMemory = HOST
    pool: Pool | None = None
    top_k: TopK | None = None
    even: bool = False

    @property
    def owner(self) -> PackedSession:
        return self.engine

    @property
    def inference(self) -> InferenceSession:
        return self.engine.inference

    @property
    def packed(self) -> bool:
        return self.engine.packed

    def empty_cache(self, batch_size: int, capacity: int) -> SharedCache:
        """A cache of `batch_size` rows, each with room for `capacity` tokens."""
        sizes = self.sizes
        # In a pool, caches of similar size get memory of one shape, for which a step may be captured already.
        room = capacity if self.pool is None else -(-capacity // POOLED_CAPACITY) * POOLED_CAPACITY
        rows = memory_rows(batch_size, self.even)
        shape = (sizes.n_layer, 2, rows, sizes.n_head, room + 1, sizes.head_dim)
        with self.engine.turn:
            if self.pool is None:
                buffers = allocated(shape, self.cache_type, self.tensors)
            else:
                buffers = self.pool.allocated(shape, self.cache_type, self.tensors.device)
        return SharedCache(
            lengths=(0,) * batch_size,
            capacity=capacity,
            owner=self.engine,
            buffers=buffers,
            version=0,
            alike=np.zeros((batch_size, batch_size), dtype=np.int64),
            even=self.even,
        )

    def step(self, rows: Sequence[Ids], cache: SharedCache, keep: int) -> tuple[Floats, SharedCache]:
        """Reads rows [B] of [any length] that fit the cache; returns logits [B, K, V]."""
        taken, stepped = self._run(rows, cache, [keep] * len(rows), lambda run, scores: (run, scores.all()))
        _, logits = taken[-1]  # [N, V]
        if len(logits) == len(rows) * keep:
            return logits.reshape(len(rows), keep, -1), stepped
        gathered = np.full((len(rows), keep, self.sizes.vocab_size), np.nan, dtype=np.float32)
        for run, part in taken:
            for slot, row in zip(logit_slots(run, rows, [keep] * len(rows)), part, strict=True):
                gathered[slot] = row
        return gathered, stepped

    def step_top_k(
        self, rows: Sequence[Ids], cache: SharedCache, keep: Sequence[int], counts: Sequence[int | None]
    ) -> tuple[list[list[Row]], SharedCache]:
        """The same, but of the logits after each row's last `keep` [B] tokens only the `counts` [B] highest."""

        def take(run: GraphCall, scores: Logits) -> list[tuple[int, Row]]:
            scored = [row for row, _ in logit_slots(run, rows, keep)]
            if not scored:
                return []
            return list(zip(scored, scores.rows([counts[row] for row in scored], self.top_k), strict=True))

        taken, stepped = self._run(rows, cache, keep, take)
        by_row: list[list[Row]] = [[] for _ in rows]
        for row, one in chain.from_iterable(taken):
            by_row[row].append(one)
        return by_row, stepped

    def _run(
        self, rows: Sequence[Ids], cache: SharedCache, keep: Sequence[int], take: Callable[[GraphCall, Logits], Taken]
    ) -> tuple[list[Taken], SharedCache]:
        """What `take` returns for the logits of each run, called before the next run."""
        cache.check_current()
        past, new = cache.lengths, [len(row) for row in rows]
        self.engine.expect(sum(new))
        limits = (PREFILL_CHUNK, RUN_COST) if self.tensors.on_host else (DEVICE_CHUNK, DEVICE_RUN_COST)
        lengths = tuple(length + count for length, count in zip(past, new, strict=True))
        for _ in range(len(rows), memory_rows(len(rows), self.even)):
            rows, past, new, keep = [*rows, IDLE], (*past, 0), [*new, 0], [*keep, 0]
        runs = plan(past, new, *limits, even=self.even)
        cache.buffers.version += 1  # first, since an interrupted step has written too
        taken = []
        for run in runs:
            fed = feeds(run, rows, past, keep, even=self.even)
            shape = run.first, len(run.reads), run.tokens, len(fed["logits_index"])
            with self.engine.turn:
                binding = self.engine.binding(cache.buffers.allocation, *shape)
                scores = binding.run(fed)
                taken.append(take(run, scores.first(len(logit_slots(run, rows, keep))) if self.even else scores))
        return taken, replace(cache, lengths=lengths, version=cache.buffers.version)


def memory_rows(rows: int, even: bool) -> int:
    """The number of rows to allocate for a cache.

    >>> memory_rows(3, even=True), memory_rows(4, even=True), memory_rows(3, even=False)
    (4, 4, 3)
    """
    return rows + rows % 2 if even else rows
