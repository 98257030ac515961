"""A safetensors file, written tensor by tensor, and the place of each tensor in it.

The safetensors library writes a file from tensors that are all in memory at once; here a model larger than memory has
to pass through. Reading is the library's, which checks what it reads.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from gpt2_export.errors import FolderError

ALIGNMENT = 64  # of the first tensor: a cache line, and the widest vector load
FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tensor's bytes are: `nbytes` of them from `offset`, counted from the start of the file."""

    shape: tuple[int, ...]
    offset: int
    nbytes: int


def write(path: Path, shapes: Mapping[str, tuple[int, ...]], arrays: Iterable[np.ndarray]) -> None:
    """Writes float32 `arrays`, in the order of `shapes`, holding one of them at a time.

    Raises:
        ValueError: an array is not of the shape and type announced.
    """
    with path.open("wb") as file:
        file.write(_header(shapes))
        waiting = iter(arrays)
        for name, shape in shapes.items():
            array = next(waiting, None)
            if array is None or array.shape != shape or array.dtype != np.float32:
                found = "missing" if array is None else f"{array.dtype} {array.shape}"
                raise ValueError(f"{name} is {found}, announced was float32 {shape}")
            file.write(np.ascontiguousarray(array).data)
            del array  # before the next one is made
        if next(waiting, None) is not None:
            raise ValueError("there are more arrays than were announced")


def places(path: Path) -> dict[str, Place]:
    """The place of every tensor.

    Raises:
        FolderError: it is no safetensors file, or one of other tensors than float32.
    """
    try:
        with safe_open(path, framework="np"):  # the library checks header, offsets and length
            pass
        with path.open("rb") as file:
            start, header = _read_header(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise FolderError(f"{path} is not a whole safetensors file: {error}; make the folder again") from error
    strange = [name for name, entry in header.items() if entry["dtype"] != "F32"]
    if strange:
        raise FolderError(f"{path}: {strange[0]} is {header[strange[0]]['dtype']}, frozen weights are F32; freeze it")
    return {
        name: Place(
            shape=tuple(entry["shape"]),
            offset=start + entry["data_offsets"][0],
            nbytes=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + FLOAT32_BYTES * prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _read_header(file: BinaryIO) -> tuple[int, dict[str, Any]]:
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return 8 + length, header
