"""Memory on a device that goes from one cache to the next: a captured CUDA graph is one of addresses."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy.typing as npt

from gpt2_runtime.engine.buffers import Allocation, DeviceBuffers, on_device

# Of those that no cache uses, so many wait for one of their shape.
MOST_FREE = 4


class PooledBuffers(DeviceBuffers):
    """Those of a pool; what is copied of them is of the pool too."""

    def __init__(self, allocation: Allocation, pool: Pool) -> None:
        super().__init__(allocation)
        self._pool = pool

    def another(self, shape: Sequence[int], dtype: npt.DTypeLike, device: str) -> PooledBuffers:
        return self._pool.allocated(shape, dtype, device)


class Pool:
    """What a session's caches lie in. An allocation comes back when the last cache over it is gone."""

    def __init__(self) -> None:
        self._free: list[Allocation] = []

    def allocated(self, shape: Sequence[int], dtype: npt.DTypeLike, device: str) -> PooledBuffers:
        """Buffers of that shape; in memory of before where some is free, cleared.

        Raises:
            SettingError: there is not as much memory.
        """
        buffers = PooledBuffers(self._taken(tuple(shape)) or on_device(shape, dtype, device), self)
        weakref.finalize(buffers, self._give_back, buffers.allocation)
        return buffers

    def _taken(self, shape: tuple[int, ...]) -> Allocation | None:
        # A collection of garbage may give one back at any time, and other threads take some: the list is copied.
        for allocation in self._free[:]:
            if allocation.shape == shape:
                try:
                    self._free.remove(allocation)
                except ValueError:
                    continue
                return allocation
        return None

    def _give_back(self, allocation: Allocation) -> None:
        self._free.append(allocation)
        del self._free[:-MOST_FREE]
