"""The memory of a serving graph's keys and values, on the host or on a device; each step writes into it in place.

L layers, B rows, H heads, D head size.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gpt2_runtime.errors import SettingError
from gpt2_runtime.providers import load_onnxruntime

if TYPE_CHECKING:
    from onnxruntime import OrtValue

Cached = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Where the keys and values lie, for whoever runs through them; it keeps them alive, but not their Buffers.

    Attributes:
        owner: of the memory.
        address: of the first number.
        shape: [L, 2, B, H, capacity + 1, D].
        dtype: of a number.
        device: "cpu" or "cuda".
        remote: whether a graph that runs there must be given copies of what the host has.
    """

    owner: object
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: str
    remote: bool = False

    def addresses(self, first: int) -> list[int]:
        """Of row `first` of each layer's keys and values, [L * 2]; the rows after it follow."""
        layers, both, rows, *sizes = self.shape
        row = self.dtype.itemsize * math.prod(sizes)
        return [self.address + row * (part * rows + first) for part in range(layers * both)]


class Buffers:
    """The keys and values of all rows of a cache, in one allocation on the host.

    Attributes:
        allocation: where they are. The last position of a row takes what is written for it while it is full and idle.
        version: how many steps have written.
    """

    def __init__(self, array: Cached) -> None:
        address = int(array.ctypes.data)
        self.allocation = Allocation(owner=array, address=address, shape=array.shape, dtype=array.dtype, device="cpu")
        self.version = 0
        self._array = array

    @property
    def array(self) -> Cached:
        """[L, 2, B, H, capacity + 1, D], to be read."""
        return self._array

    @contextmanager
    def written(self) -> Iterator[Cached]:
        """The same, to be written into."""
        yield self._array

    def of(self, rows: int) -> Buffers:
        """Others, of as many rows, in the same place; nothing is in them."""
        found = self.allocation
        return allocated((*found.shape[:2], rows, *found.shape[3:]), found.dtype, found.device)


class DeviceBuffers(Buffers):
    """Those that lie on a device. What is not a step of the graph goes through the host, all of it."""

    def __init__(self, array: Cached, device: str) -> None:
        value = load_onnxruntime().OrtValue.ortvalue_from_numpy(array, device)
        self.allocation = Allocation(
            owner=value, address=int(value.data_ptr()), shape=array.shape, dtype=array.dtype, device=device, remote=True
        )
        self.version = 0
        self._value: OrtValue = value

    @property
    def array(self) -> Cached:
        found: Cached = self._value.numpy()
        return found

    @contextmanager
    def written(self) -> Iterator[Cached]:
        array = np.array(self._value.numpy())
        yield array
        self._value.update_inplace(array)


def allocated(shape: Sequence[int], dtype: npt.DTypeLike, device: str) -> Buffers:
    """Buffers of that shape on that device.

    Raises:
        SettingError: there is not as much memory.
    """
    if device == "cpu":
        return Buffers(untouched(shape, dtype))
    try:
        # Zeros, for a kernel may read past a row's end before it masks what it finds there.
        return DeviceBuffers(np.zeros(shape, dtype), device)
    except (RuntimeError, MemoryError) as error:  # onnxruntime's own errors are of the first
        raise SettingError(_too_large(shape, dtype, device)) from error


def untouched(shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> Cached:
    """Zeros, of which a page takes memory once it is written to.

    np.zeros would ask Linux for huge pages, and the first token of each head would fill all of them.
    """
    private = {} if sys.platform == "win32" else {"flags": mmap.MAP_PRIVATE}  # a fork must not write into its parent's
    size = np.dtype(dtype).itemsize * math.prod(shape)
    try:
        pages = mmap.mmap(-1, size, **private)
    except (OSError, OverflowError) as error:
        raise SettingError(_too_large(shape, dtype, "the system")) from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # for systems that give them unasked
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype=dtype).reshape(shape)


def _too_large(shape: Sequence[int], dtype: npt.DTypeLike, place: str) -> str:
    size = np.dtype(dtype).itemsize * math.prod(shape)
    return f"cache needs {size:,} bytes, {place} has less; lower its rows or capacity"
