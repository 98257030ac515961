"""The logits of one run of a graph, on the host or a device; only what is needed is copied from a device to the host.

One row has 201 KB for GPT-2. Copying many rows takes longer than the step that computes them, and so does searching
them on one host core for the highest.

N rows, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpt2_runtime.engine.top_k import TopK
from gpt2_runtime.providers import cuda_memory
from gpt2_runtime.providers.cuda_memory import Box, Direction, Extent
from gpt2_runtime.sampling.top_logits import TopLogits, top_logits

Floats = npt.NDArray[np.float32]
Row = Floats | TopLogits
"""All logits [V] after a token, or the highest."""

NUMBER = 4  # bytes

# The most logits that are selected on a device, and how many more than requested, in case of ties. If more tokens tie,
# the whole row is copied. float16 makes ties frequent.
MOST, SPARE = 256, 16

# Copying fewer rows than this should take less time than starting a selection on the device; not measured.
LEAST_ROWS = 8


class Logits(ABC):
    """Logits [N, V], until the next run of the same binding."""

    @abstractmethod
    def all(self) -> Floats:
        """All of them, [N, V], on the host; owned by the caller."""

    @abstractmethod
    def first(self, count: int) -> Logits:
        """The logits of the first `count` rows."""

    @abstractmethod
    def ends(self, groups: int, count: int) -> Floats:
        """The last `count` rows of each of `groups` equal groups, [groups, count, V], on the host."""

    @abstractmethod
    def rows(self, counts: Sequence[int | None], top_k: TopK | None) -> list[Row]:
        """For each row at least its `counts` highest logits; None requests all.

        Args:
            counts: [N].
            top_k: selects the highest on the device; without it all logits of each row are copied.
        """


class HostLogits(Logits):
    """An array."""

    def __init__(self, logits: Floats) -> None:
        self._logits = logits

    def all(self) -> Floats:
        return self._logits

    def first(self, count: int) -> Logits:
        return HostLogits(self._logits[:count])

    def ends(self, groups: int, count: int) -> Floats:
        grouped = self._logits.reshape(groups, -1, self._logits.shape[-1])
        return grouped[:, grouped.shape[1] - count :]

    def rows(self, counts: Sequence[int | None], top_k: TopK | None) -> list[Row]:
        return list(self._logits)


class DeviceLogits(Logits):
    """Memory of a device.

    Args:
        owner: keeps the memory alive.
        address: the address of the first value.
        shape: [N, V].
    """

    def __init__(self, owner: object, address: int, shape: tuple[int, int]) -> None:
        self._owner = owner
        self._address = address
        self._shape = shape

    def all(self) -> Floats:
        logits = np.empty(self._shape, np.float32)
        cuda_memory.bring(logits, self._address)
        return logits

    def first(self, count: int) -> Logits:
        return DeviceLogits(self._owner, self._address, (count, self._shape[1]))

    def ends(self, groups: int, count: int) -> Floats:
        rows, vocab_size = self._shape
        size, left_out = vocab_size * NUMBER, rows // groups - count
        logits = np.empty((groups, count, vocab_size), np.float32)
        # A group is a slice with one row; the end of that row is copied.
        source = Box(address=self._address + left_out * size, pitch=rows // groups * size, rows=1)
        target = Box(address=int(logits.ctypes.data), pitch=count * size, rows=1)
        cuda_memory.copy(target, source, Extent(width=count * size, height=1, depth=groups), Direction.TO_HOST)
        cuda_memory.wait()
        return logits

    def rows(self, counts: Sequence[int | None], top_k: TopK | None) -> list[Row]:
        few = [count for count in counts if count is not None and count <= MOST]
        if top_k is None or len(few) < LEAST_ROWS:
            return list(self.all())
        highest = top_k.highest(self._address, *self._shape, max(few) + SPARE)
        most = highest.values.shape[1]
        requested = [most if count is None else count for count in counts]
        return [
            self._row(place) if top is None or count is None or count > MOST else top
            for place, (top, count) in enumerate(zip(top_logits(highest, requested), counts, strict=True))
        ]

    def _row(self, place: int) -> Floats:
        row = np.empty(self._shape[1], np.float32)
        cuda_memory.bring(row, self._address + place * row.nbytes)
        return row
