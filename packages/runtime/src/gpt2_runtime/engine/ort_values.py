"""Keys or values of a layer, [B, H, P, D], cut, gathered, replaced, read where they lie. None is changed in place."""

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
        # A view would outlive the array under the tensor, for what onnxruntime returns keeps that alive no longer.
        return _like(tensor, tensor.numpy()[:, :, :length].copy())
    rows, heads, _, size = tensor.shape()
    made = _room(tensor, [rows, heads, length, size])
    _copied(made, 0, tensor, 0, Extent(width=length * size * NUMBER, height=heads, depth=rows))
    cuda_memory.wait()
    return made


def gathered(tensor: OrtValue, rows: Sequence[int]) -> OrtValue:
    """Rows in any order and number."""
    if not remote(tensor):
        return _like(tensor, tensor.numpy()[list(rows)])
    _, heads, positions, size = tensor.shape()
    made = _room(tensor, [len(rows), heads, positions, size])
    for place, row in enumerate(rows):
        _copied(made, place, tensor, row, Extent(width=positions * size * NUMBER, height=heads))
    cuda_memory.wait()
    return made


def replaced(tensor: OrtValue, row: int, part: Part) -> OrtValue:
    """With a row that is `part`, [H, length, D]: as long as the others, if there are others."""
    count, heads, *_ = tensor.shape()
    if count == 1:
        return _like(tensor, part[None].copy())  # of its own: onnxruntime goes on reading the memory that it is given
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
        found: Part = tensor.numpy()[row, :, :length]
        return found
    _, heads, _, size = tensor.shape()
    part = np.empty((heads, length, size), np.float32)
    target = Box(address=int(part.ctypes.data), pitch=length * size * NUMBER, rows=heads)
    extent = Extent(width=length * size * NUMBER, height=heads)
    cuda_memory.copy(target, _box(tensor, row), extent, Direction.TO_HOST)
    cuda_memory.wait()
    return part


def remote(tensor: OrtValue) -> bool:
    """Whether it lies on a device, which copies by itself."""
    return not HOST.holds(tensor)


def _like(tensor: OrtValue, array: Part) -> OrtValue:
    return type(tensor).ortvalue_from_numpy(array, tensor.device_name())


def _room(tensor: OrtValue, shape: list[int]) -> OrtValue:
    return type(tensor).ortvalue_from_shape_and_type(shape, np.float32, tensor.device_name())


def _box(tensor: OrtValue, row: int) -> Box:
    """A row and those after it: a slice is a row, of which it has a row of each head."""
    _, heads, positions, size = tensor.shape()
    pitch = positions * size * NUMBER
    return Box(address=int(tensor.data_ptr()) + row * heads * pitch, pitch=pitch, rows=heads)


def _copied(into: OrtValue, place: int, source: OrtValue, row: int, extent: Extent) -> None:
    cuda_memory.copy(_box(into, place), _box(source, row), extent, Direction.ON_DEVICE)
