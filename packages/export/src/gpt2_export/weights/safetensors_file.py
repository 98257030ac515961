"""Writes a safetensors file tensor by tensor, and finds the place of each tensor in one.

The safetensors library needs all tensors in memory to write a file; this also writes models larger than memory. Reading
uses the library, which checks the file.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from gpt2_export import plain_file
from gpt2_export.errors import FolderError

ALIGNMENT = 64  # of the first tensor: a cache line, and the widest vector load
FLOAT32_BYTES = 4
HEADER_BYTES = 16_000_000  # GPT-2 XL's has under a hundred thousand
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "U8": np.dtype(np.uint8)}


class Form(NamedTuple):
    """A declared tensor: its shape, and its dtype under the format's own name."""

    shape: tuple[int, ...]
    dtype: str = "F32"

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place of a tensor: `nbytes` bytes at `offset` from the start of the file."""

    shape: tuple[int, ...]
    offset: int
    nbytes: int
    dtype: str = "F32"


def write(path: Path, forms: Mapping[str, Form], arrays: Iterable[np.ndarray]) -> None:
    """Writes `arrays`, in the order of `forms`, holding one at a time.

    Raises:
        ValueError: an array does not have its declared shape and dtype.
    """
    with path.open("wb") as file:
        file.write(_header(forms))
        waiting = iter(arrays)
        for name, (shape, dtype) in forms.items():
            array = next(waiting, None)
            if array is None or array.shape != shape or array.dtype != DTYPES[dtype]:
                actual = "missing" if array is None else f"{array.dtype} {array.shape}"
                raise ValueError(f"{name} is {actual}, declared was {DTYPES[dtype]} {shape}")
            file.write(np.ascontiguousarray(array).data)
            del array  # before the next one is made
        if next(waiting, None) is not None:
            raise ValueError("there are more arrays than declared")


def places(path: Path, dtypes: Collection[str] = ("F32",)) -> dict[str, Place]:
    """The place of every tensor.

    Raises:
        FolderError: it is not a safetensors file, or has a tensor of a dtype not in `dtypes`.
    """
    plain_file.refuse_odd(path)
    try:
        _refuse_long_header(path)
        with safe_open(path, framework="np"):  # the library checks header, offsets and length
            pass
        with path.open("rb") as file:
            start, header = _read_header(file)
    except FileNotFoundError as error:
        raise FolderError(f"{path} is missing; make the folder again") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise FolderError(f"{path} is not a whole safetensors file: {error}; make the folder again") from error
    strange = [name for name, entry in header.items() if entry["dtype"] not in dtypes]
    if strange:
        dtype, known = header[strange[0]]["dtype"], " or ".join(dtypes)
        raise FolderError(f"{path}: {strange[0]} is {dtype}, its tensors must be {known}; make the folder again")
    return {
        name: Place(
            shape=tuple(entry["shape"]),
            offset=start + entry["data_offsets"][0],
            nbytes=entry["data_offsets"][1] - entry["data_offsets"][0],
            dtype=entry["dtype"],
        )
        for name, entry in header.items()
    }


def read(path: Path, place: Place) -> np.ndarray:
    """A tensor's values, memory-mapped and not read yet."""
    array: np.ndarray = np.memmap(path, DTYPES[place.dtype], "r", place.offset, place.shape)
    return array


def _header(forms: Mapping[str, Form]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, form in forms.items():
        begin, end = end, end + form.nbytes
        header[name] = {"dtype": form.dtype, "shape": list(form.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _refuse_long_header(path: Path) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > HEADER_BYTES:
        raise ValueError(f"its header would have {length:,} bytes, at most {HEADER_BYTES:,} are read")


def _read_header(file: BinaryIO) -> tuple[int, dict[str, Any]]:
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return 8 + length, header
