"""Protobuf, written by hand: an ONNX file with something more in it."""

from collections.abc import Callable
from pathlib import Path

GRAPH = 7  # of a model
NODE, INITIALIZER, INPUT, VALUE_INFO, SPARSE = 1, 5, 11, 13, 15  # of a graph


def varint(value: int) -> bytes:
    value %= 2**64
    parts = []
    while value >= 128:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes((*parts, value))


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def node(op_type: str, *attributes: bytes, domain: str = "") -> bytes:
    """One that reads and writes a name of its own."""
    own = (field(1, "in"), field(2, "out"), field(4, op_type), field(7, domain))
    return field(NODE, b"".join(own) + b"".join(field(5, attribute) for attribute in attributes))


def tensor(name: str, dims: list[int], type_: int, *more: bytes) -> bytes:
    return b"".join(field(1, dim) for dim in dims) + field(2, type_) + field(8, name) + b"".join(more)


def placed(location: str, offset: object, length: object) -> bytes:
    """Data in another file."""
    entries = {"location": location, "offset": offset, "length": length}
    return b"".join(field(13, field(1, key) + field(2, str(value))) for key, value in entries.items()) + field(14, 1)


def with_more(data: bytes, more: bytes) -> bytes:
    """The model with `more` at the end of its graph."""
    at, out = 0, b""
    while at < len(data):
        start = at
        tag, at = _read(data, at)
        size, at = _read(data, at)
        if tag & 7 == 0:  # that was the value
            out += data[start:at]
            continue
        content = data[at : at + size] + (more if tag >> 3 == GRAPH else b"")
        at += size
        out += field(tag >> 3, content)
    return out


def _read(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))
