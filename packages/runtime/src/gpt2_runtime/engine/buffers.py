"""The memory of a serving graph's keys and values, on the host or on a device; each step writes into it in place.

L layers, B rows, H heads, D head size.
"""

from __future__ import annotations

import math
import mmap
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from gpt2_runtime.errors import SettingError
from gpt2_runtime.providers import cuda_memory
from gpt2_runtime.providers.cuda_memory import Box, Direction, Extent
from gpt2_runtime.providers.provider import HOST, TensorMemory
from gpt2_runtime.providers.providers import load_onnxruntime

Cached = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, eq=False)
class Allocation:
    """The memory of the keys and values; holding `owner` keeps it alive.

    Attributes:
        owner: the owner of the memory.
        address: the address of the first value.
        shape: [L, 2, B, H, capacity + 1, D].
        dtype: the element type.
        device: onnxruntime's name for it.
        remote: whether a graph that runs there needs copies of the host's arrays.
    """

    owner: object
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: str
    remote: bool = False

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.dtype.itemsize * math.prod(self.shape)

    def addresses(self, first: int) -> list[int]:
        """The addresses of row `first` of each layer's keys and values, [L * 2]; the rows after it follow."""
        layers, both, rows, *sizes = self.shape
        row = self.dtype.itemsize * math.prod(sizes)
        return [self.address + row * (part * rows + first) for part in range(layers * both)]


class Move(NamedTuple):
    """A copy of some positions of a row to the same positions of another row."""

    row: int
    into: int
    start: int
    stop: int


class Buffers(ABC):
    """The keys and values of all rows of a cache.

    Attributes:
        allocation: their memory. The last position of a row takes what is written while the row is full and idle.
        version: the number of steps that have written.
    """

    allocation: Allocation
    version: int = 0

    def of(self, rows: int) -> Buffers:
        """New, empty buffers for this number of rows, on the same device."""
        here = self.allocation
        return self.another((*here.shape[:2], rows, *here.shape[3:]), here.dtype, here.device)

    @abstractmethod
    def another(self, shape: Sequence[int], dtype: npt.DTypeLike, device: str) -> Buffers:
        """New buffers of the same kind."""

    @abstractmethod
    def read(self, row: int, length: int) -> Cached:
        """A copy of the first positions of a row, [L, 2, H, length, D]."""

    @abstractmethod
    def write(self, row: int, text: Cached) -> None:
        """Overwrites the first positions of a row with `text`, [L, 2, H, length, D]."""

    @abstractmethod
    def take(self, moves: Sequence[Move], source: Self) -> None:
        """Copies from rows of `source`, which may be this object; reads all before it writes any."""


class HostBuffers(Buffers):
    """One array, [L, 2, B, H, capacity + 1, D]."""

    def __init__(self, array: Cached) -> None:
        address = int(array.ctypes.data)
        dtype, device = array.dtype, HOST.device
        self.allocation = Allocation(owner=array, address=address, shape=array.shape, dtype=dtype, device=device)
        self.array = array

    def another(self, shape: Sequence[int], dtype: npt.DTypeLike, device: str) -> HostBuffers:
        return HostBuffers(untouched(shape, dtype))

    def read(self, row: int, length: int) -> Cached:
        return self.array[:, :, row, :, :length].copy()

    def write(self, row: int, text: Cached) -> None:
        self.array[:, :, row, :, : text.shape[3]] = text

    def take(self, moves: Sequence[Move], source: Self) -> None:
        for old, new in zip(source.array, self.array, strict=True):  # of a layer
            texts = [old[:, move.row, :, move.start : move.stop] for move in moves]  # [2, H, positions, D]
            held = [text.copy() for text in texts] if source is self else texts
            for move, text in zip(moves, held, strict=True):
                new[:, move.into, :, move.start : move.stop] = text


class DeviceBuffers(Buffers):
    """One tensor of that shape on a device; moves are copied on the device."""

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation
        # A kernel may read past a row's end before it masks those values.
        cuda_memory.clear(allocation.address, allocation.size)
        cuda_memory.wait()

    def another(self, shape: Sequence[int], dtype: npt.DTypeLike, device: str) -> DeviceBuffers:
        return DeviceBuffers(on_device(shape, dtype, device))

    def read(self, row: int, length: int) -> Cached:
        layers, both, _, heads, _, size = self.allocation.shape
        text = np.empty((layers, both, heads, length, size), self.allocation.dtype)
        cuda_memory.copy(_whole(text), self._box(row), self._extent(length), Direction.TO_HOST)
        cuda_memory.wait()
        return text

    def write(self, row: int, text: Cached) -> None:
        text = np.ascontiguousarray(text)
        cuda_memory.copy(self._box(row), _whole(text), self._extent(text.shape[3]), Direction.TO_DEVICE)
        cuda_memory.wait()

    def take(self, moves: Sequence[Move], source: Self) -> None:
        if source is not self:
            self._take(moves, source)
        elif moves:
            held = self.of(len(moves))
            assert isinstance(held, DeviceBuffers)
            held._take([move._replace(into=place) for place, move in enumerate(moves)], self)
            self._take([move._replace(row=place) for place, move in enumerate(moves)], held)
        cuda_memory.wait()

    def _take(self, moves: Sequence[Move], source: DeviceBuffers) -> None:
        for move in moves:
            boxes = self._box(move.into, move.start), source._box(move.row, move.start)
            cuda_memory.copy(*boxes, self._extent(move.stop - move.start), Direction.ON_DEVICE)

    def _box(self, row: int, start: int = 0) -> Box:
        """A row from a position on; a slice is a layer's keys or values, with one row per head."""
        _, _, rows, heads, positions, size = self.allocation.shape
        token = size * self.allocation.dtype.itemsize
        (address, *_) = self.allocation.addresses(row)
        return Box(address=address + start * token, pitch=positions * token, rows=rows * heads)

    def _extent(self, length: int) -> Extent:
        layers, both, _, heads, _, size = self.allocation.shape
        return Extent(width=length * size * self.allocation.dtype.itemsize, height=heads, depth=layers * both)


def _whole(text: Cached) -> Box:
    """An array on the host, [L, 2, H, length, D]."""
    return Box(address=int(text.ctypes.data), pitch=text.strides[2], rows=text.shape[2])


def allocated(shape: Sequence[int], dtype: npt.DTypeLike, tensors: TensorMemory) -> Buffers:
    """Buffers of that shape in that memory.

    Raises:
        SettingError: there is not enough memory.
    """
    if tensors.on_host:
        return HostBuffers(untouched(shape, dtype))
    return DeviceBuffers(on_device(shape, dtype, tensors.device))


def on_device(shape: Sequence[int], dtype: npt.DTypeLike, device: str) -> Allocation:
    """New, uninitialized memory.

    Raises:
        SettingError: there is not enough memory.
    """
    try:
        value = load_onnxruntime().OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, device)
    except (RuntimeError, MemoryError) as error:  # onnxruntime's own errors are of the first
        raise SettingError(_too_large(shape, dtype, device)) from error
    address, sizes, number = int(value.data_ptr()), tuple(shape), np.dtype(dtype)
    return Allocation(owner=value, address=address, shape=sizes, dtype=number, device=device, remote=True)


def untouched(shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> Cached:
    """Zeros whose pages take memory only once they are written.

    np.zeros would request huge pages from Linux, and the first token of each head would touch all of them.
    """
    private = (
        {} if sys.platform == "win32" else {"flags": mmap.MAP_PRIVATE}
    )  # a fork must not write into its parent's memory
    size = np.dtype(dtype).itemsize * math.prod(shape)
    try:
        pages = mmap.mmap(-1, size, **private)
    except (OSError, OverflowError) as error:
        raise SettingError(_too_large(shape, dtype, "the system")) from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # for systems that use them by default
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype=dtype).reshape(shape)


def _too_large(shape: Sequence[int], dtype: npt.DTypeLike, place: str) -> str:
    size = np.dtype(dtype).itemsize * math.prod(shape)
    return f"cache needs {size:,} bytes, {place} has less; lower its rows or capacity"
