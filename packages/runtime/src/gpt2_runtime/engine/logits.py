"""The logits of one run of a graph, where it has left them: of those on a device only what is needed comes to the host.

A row of GPT-2's is 201 KB. To bring many takes longer than the step that computes them, and so does a search on one
core of the host for the highest.

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
"""All logits [V] after a token, or those that matter."""

NUMBER = 4  # bytes

# The longest shortlist that is found on a device, and so many more than asked for, in case of ties: where more tokens
# tie the whole row comes. Halves of 16 bits make for many.
MOST, SPARE = 256, 16

# Fewer rows are brought to the host in less time than a search on the device is started, by all that is known of both:
# it has not been measured.
LEAST_ROWS = 8


class Logits(ABC):
    """Logits [N, V], until the next run of the same binding."""

    @abstractmethod
    def all(self) -> Floats:
        """All of them, [N, V], on the host; the caller's to keep."""

    @abstractmethod
    def first(self, count: int) -> Logits:
        """Those of the first rows."""

    @abstractmethod
    def ends(self, groups: int, count: int) -> Floats:
        """The last `count` of each of so many equal groups of rows, [groups, count, V], on the host."""

    @abstractmethod
    def rows(self, counts: Sequence[int | None], top_k: TopK | None) -> list[Row]:
        """For each row at least a shortlist of so many tokens; None asks for all logits.

        Args:
            counts: [N].
            top_k: of the highest, where they lie on a device; without one all logits of each row come.
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
        owner: whatever keeps the memory.
        address: of the first number.
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
        # A group is a slice of one row, of which the end is copied.
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
        asked = [most if count is None else count for count in counts]
        return [
            self._row(place) if found is None or count is None or count > MOST else found
            for place, (found, count) in enumerate(zip(top_logits(highest, asked), counts, strict=True))
        ]

    def _row(self, place: int) -> Floats:
        row = np.empty(self._shape[1], np.float32)
        cuda_memory.bring(row, self._address + place * row.nbytes)
        return row
