"""Operations on a layer's keys or values, [B, H, P, D], on their device. None changes a tensor in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gpt2_runtime.providers import cuda_memory
from gpt2_runtime.providers.cuda_memory import Box, Direction, Extent
from gpt2_runtime.providers.provider import HOST

if TYPE_CHECKING:
    from onnxruntime import OrtValue

Part = npt.NDArray[np.floating]

NUMBER = 4  # bytes: the portable graph's are float32 in every precision


def cut(tensor: OrtValue, length: int) -> OrtValue:
    """The first positions of every row."""
    if not remote(tensor):
        # A view would outlive the array under the tensor, which onnxruntime's result does not keep alive.
        return _like(tensor, tensor.numpy()[:, :, :length].copy())
    rows, heads, _, size = tensor.shape()
    made = _room(tensor, [rows, heads, length, size])
    _copied(made, 0, tensor, 0, Extent(width=length * size * NUMBER, height=heads, depth=rows))
    cuda_memory.wait()
    return made


def gathered(tensor: OrtValue, rows: Sequence[int]) -> OrtValue:
    """The given rows, in any order, repeated or not."""
    if not remote(tensor):
        return _like(tensor, tensor.numpy()[list(rows)])
    _, heads, positions, size = tensor.shape()
    made = _room(tensor, [len(rows), heads, positions, size])
    for place, row in enumerate(rows):
        _copied(made, place, tensor, row, Extent(width=positions * size * NUMBER, height=heads))
    cuda_memory.wait()
    return made


def replaced(tensor: OrtValue, row: int, part: Part) -> OrtValue:
    """The tensor with a row replaced by `part`, [H, length, D], of the length of the other rows."""
    count, heads, *_ = tensor.shape()
    if count == 1:
        return _like(tensor, part[None].copy())  # a copy, since onnxruntime keeps reading the memory it gets
    if not remote(tensor):
        rows = tensor.numpy().copy()
        rows[row] = part
        return _like(tensor, rows)
    made, part = gathered(tensor, range(count)), np.ascontiguousarray(part)
    width = part.nbytes // heads
    source = Box(address=int(part.ctypes.data), pitch=width, rows=heads)
    cuda_memory.copy(_box(made, row), source, Extent(width=width, height=heads), Direction.TO_DEVICE)
    cuda_memory.wait()
    return made


def read(tensor: OrtValue, row: int, length: int) -> Part:
    """The first positions of a row, [H, length, D], on the host."""
    if not remote(tensor):
        part: Part = tensor.numpy()[row, :, :length]
        return part
    _, heads, _, size = tensor.shape()
    part = np.empty((heads, length, size), np.float32)
    target = Box(address=int(part.ctypes.data), pitch=length * size * NUMBER, rows=heads)
    extent = Extent(width=length * size * NUMBER, height=heads)
    cuda_memory.copy(target, _box(tensor, row), extent, Direction.TO_HOST)
    cuda_memory.wait()
    return part


def remote(tensor: OrtValue) -> bool:
    """Whether it is on a device, which copies it itself."""
    return not HOST.holds(tensor)


def _like(tensor: OrtValue, array: Part) -> OrtValue:
    return type(tensor).ortvalue_from_numpy(array, tensor.device_name())


def _room(tensor: OrtValue, shape: list[int]) -> OrtValue:
    return type(tensor).ortvalue_from_shape_and_type(shape, np.float32, tensor.device_name())


def _box(tensor: OrtValue, row: int) -> Box:
    """A row and those after it; a slice is a row of the batch, with one row per head."""
    _, heads, positions, size = tensor.shape()
    pitch = positions * size * NUMBER
    return Box(address=int(tensor.data_ptr()) + row * heads * pitch, pitch=pitch, rows=heads)


def _copied(into: OrtValue, place: int, source: OrtValue, row: int, extent: Extent) -> None:
    cuda_memory.copy(_box(into, place), _box(source, row), extent, Direction.ON_DEVICE)
