"""Copies and clears GPU memory with the CUDA runtime that onnxruntime has loaded.

onnxruntime itself copies only whole tensors, but a cache needs to copy some positions of some rows.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any

import numpy.typing as npt

from gpt2_runtime.errors import ProviderError
from gpt2_runtime.providers.providers import load_onnxruntime

LIBRARIES = {"linux": "libcudart.so.{major}", "win32": "cudart64_{major}.dll"}


class Direction(IntEnum):
    """The direction of a copy, with CUDA's numbers."""

    TO_DEVICE = 1
    TO_HOST = 2
    ON_DEVICE = 3


@dataclass(frozen=True, kw_only=True)
class Box:
    """The layout of slices of rows of bytes.

    Attributes:
        address: the address of the first byte.
        pitch: bytes from the start of one row to the next.
        rows: rows from the start of one slice to the next.
    """

    address: int
    pitch: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The size of a copy: `depth` slices of `height` rows of `width` bytes."""

    width: int
    height: int
    depth: int = 1


class _Position(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("x", "y", "z")]


class _Pitched(ctypes.Structure):
    _fields_ = [("ptr", ctypes.c_void_p), *((name, ctypes.c_size_t) for name in ("pitch", "xsize", "ysize"))]


class _Extent(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("width", "height", "depth")]


class Parameters(ctypes.Structure):
    """cudaMemcpy3DParms, as the CUDA runtime's driver_types.h lays it out."""

    _fields_ = [
        ("srcArray", ctypes.c_void_p),
        ("srcPos", _Position),
        ("srcPtr", _Pitched),
        ("dstArray", ctypes.c_void_p),
        ("dstPos", _Position),
        ("dstPtr", _Pitched),
        ("extent", _Extent),
        ("kind", ctypes.c_int),
    ]


@cache
def runtime() -> Any:
    """The CUDA runtime.

    Raises:
        ProviderError: it is not there.
    """
    onnxruntime = load_onnxruntime()
    major = str(getattr(onnxruntime, "cuda_version", "")).partition(".")[0]
    name = LIBRARIES.get(sys.platform, LIBRARIES["linux"]).format(major=major)
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise ProviderError(f"provider cuda cannot copy, {name} is not there; install CUDA {major}") from error


def copy(target: Box, source: Box, extent: Extent, direction: Direction) -> None:
    """Starts a copy; it is done when `wait` returns.

    Raises:
        ProviderError: the device fails.
    """
    if not (extent.width and extent.height and extent.depth):
        return
    parameters = Parameters(
        srcPtr=_Pitched(source.address, source.pitch, extent.width, source.rows),
        dstPtr=_Pitched(target.address, target.pitch, extent.width, target.rows),
        extent=_Extent(extent.width, extent.height, extent.depth),
        kind=int(direction),
    )
    _check(runtime().cudaMemcpy3D(ctypes.byref(parameters)), "copy")


def copy_bytes(target: int, source: int, size: int, direction: Direction) -> None:
    """The same for contiguous bytes, from address to address."""
    addresses = ctypes.c_void_p(target), ctypes.c_void_p(source)
    _check(runtime().cudaMemcpy(*addresses, ctypes.c_size_t(size), int(direction)), "copy")


def bring(array: npt.NDArray[Any], address: int) -> None:
    """Fills an array on the host from an address on the device."""
    copy_bytes(int(array.ctypes.data), address, array.nbytes, Direction.TO_HOST)
    wait()


def clear(address: int, size: int) -> None:
    """Fills `size` bytes with zeros; done when `wait` returns."""
    _check(runtime().cudaMemset(ctypes.c_void_p(address), 0, ctypes.c_size_t(size)), "clear")


def wait() -> None:
    """Waits for the operations started here. onnxruntime's own work is on another stream, and does not wait."""
    _check(runtime().cudaStreamSynchronize(None), "wait")


def _check(status: int, what: str) -> None:
    if status:
        explain = runtime().cudaGetErrorString
        explain.restype = ctypes.c_char_p
        raise ProviderError(f"provider cuda fails to {what} its memory ({explain(status).decode()}); see nvidia-smi")
