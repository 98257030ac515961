"""Device memory that later caches reuse, since a captured CUDA graph contains fixed addresses."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy.typing as npt

from gpt2_runtime.engine.buffers import Allocation, DeviceBuffers, on_device

# Unused allocations kept for a cache of their shape.
MOST_FREE = 4


class PooledBuffers(DeviceBuffers):
    """Buffers of a pool; copies of them come from the pool too."""

    def __init__(self, allocation: Allocation, pool: Pool) -> None:
        super().__init__(allocation)
        self._pool = pool

    def another(self, shape: Sequence[int], dtype: npt.DTypeLike, device: str) -> PooledBuffers:
        return self._pool.allocated(shape, dtype, device)


class Pool:
    """The memory of a session's caches. An allocation returns to the pool when the last cache that uses it is gone."""

    def __init__(self) -> None:
        self._free: list[Allocation] = []

    def allocated(self, shape: Sequence[int], dtype: npt.DTypeLike, device: str) -> PooledBuffers:
        """Cleared buffers of that shape, in reused memory if some is free.

        Raises:
            SettingError: there is not enough memory.
        """
        buffers = PooledBuffers(self._taken(tuple(shape)) or on_device(shape, dtype, device), self)
        weakref.finalize(buffers, self._give_back, buffers.allocation)
        return buffers

    def _taken(self, shape: tuple[int, ...]) -> Allocation | None:
        # Garbage collection may return one at any time, and other threads may take some, so iterate over a copy.
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
