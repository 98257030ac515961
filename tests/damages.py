"""Damages files for the fuzz tests: any bytes, any value in JSON, anything in a graph, and things that are not files.

GPT2_EXPORT_FUZZ=20 tries twenty times as many.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message
from hypothesis import settings
from hypothesis import strategies as st
from odd_files import ODD, make_odd

TIMES = int(os.environ.get("GPT2_EXPORT_FUZZ", "1"))

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 400)
    | st.sampled_from([10**9, 2**31 - 1, 2**31, 2**63, -(2**63), 10**400])
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["../../etc/hostname", "/dev/zero", "\ud800", "x" * 5000, "\x1b[2J"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
HEADERS = [b"\xff" * 7 + b"\0", (10**8).to_bytes(8, "little"), b"\0" * 8, b"\x02" + b"\0" * 7 + b"{}"]
LONG = {  # by name, so that a failure prints one line
    "deep object": b'{"a":' * 10**5,
    "deep list": b"[" * 10**5,
    "mark": b"\xef\xbb\xbf{}",
    "twins": b"{" + b'"a": 1, ' * 10**5 + b'"a": 1}',
}


def fuzzed(examples: int) -> settings:
    """The same examples every time, without hypothesis's own deadline, since the machine may be busy."""
    return settings(max_examples=examples * TIMES, derandomize=True, deadline=None, database=None)


def do_damage(data: st.DataObject, path: Path) -> None:
    """Damages a file in some way."""
    ways: list[Callable[[st.DataObject, Path], None]] = [_bytes, _bytes, _odd]
    if path.suffix == ".json":
        ways += [_json, _json, _json]
    if path.suffix == ".onnx":
        ways += [_graph, _graph, _graph]
    if path.suffix == ".safetensors":
        ways += [_header, _header]
    data.draw(st.sampled_from(ways))(data, path)


def _odd(data: st.DataObject, path: Path) -> None:
    make_odd(path, data.draw(st.sampled_from(ODD)))


def _bytes(data: st.DataObject, path: Path) -> None:
    """Replaces the bytes, or changes, cuts or doubles some."""
    old = path.read_bytes()
    new = data.draw(st.binary(max_size=30) | st.sampled_from(HEADERS) | st.sampled_from(sorted(LONG)))
    new = LONG[new] if isinstance(new, str) else new
    start = int(data.draw(st.floats(0, 1)) * len(old))
    length = data.draw(st.integers(0, 40))
    changed = [new, old[:start] + new + old[start + length :], old[:start], old + new, new + old[8:]]
    path.write_bytes(changed[data.draw(st.integers(0, 4))])


def _json(data: st.DataObject, path: Path) -> None:
    """Changes or removes a value somewhere in a document."""
    document = json.loads(path.read_text())
    _change(data, document)
    path.write_text(json.dumps(document))


def _change(data: st.DataObject, document: Any) -> None:
    at = document
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.integers(0, 3)) == 0:
            break
        at = at[key]
    if data.draw(st.booleans()) and isinstance(at, dict):
        del at[key]
    elif data.draw(st.integers(0, 5)) == 0 and isinstance(at, dict):
        at[data.draw(st.text(max_size=4))] = at[key]
    else:
        at[key] = data.draw(VALUES)


def _header(data: st.DataObject, path: Path) -> None:
    """Changes offsets, shapes, types and names in the header of a weights file."""
    old = path.read_bytes()
    length = int.from_bytes(old[:8], "little")
    header = json.loads(old[8 : 8 + length])
    _change(data, header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + old[8 + length :])


def _graph(data: st.DataObject, path: Path) -> None:
    """Changes, removes or doubles a field somewhere in a graph."""
    proto = onnx.load(path, load_external_data=False)
    at: Message = proto
    while True:
        field, value = data.draw(st.sampled_from(at.ListFields()))
        is_list = hasattr(value, "__len__") and not isinstance(value, str | bytes)
        inner = data.draw(st.sampled_from(value)) if is_list else value
        if not isinstance(inner, Message) or not inner.ListFields() or data.draw(st.integers(0, 5)) == 0:
            break
        at = inner
    numbers = st.integers(-1, 20) | st.sampled_from([2**31 - 1, 10**9, 2**40])
    if data.draw(st.booleans()):
        at.ClearField(field.name)
    elif isinstance(inner, Message) and is_list:
        value.append(inner)  # type: ignore[union-attr]
    elif not isinstance(inner, Message):
        new = {int: numbers, str: st.text(max_size=5), bytes: st.binary(max_size=20), float: st.floats(width=32)}
        other = data.draw(new[type(inner)])
        try:
            if is_list:
                value[data.draw(st.integers(0, len(value) - 1))] = other
            else:
                setattr(at, field.name, other)
        except ValueError:  # the number is too large for the field
            at.ClearField(field.name)
    path.write_bytes(proto.SerializeToString())
