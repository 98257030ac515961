"""Reads the parts of an ONNX file that must be checked: inputs, outputs, operators, initializers. Needs no package.

The file is protobuf and untrusted: a field that gpt2-export never writes is refused, whatever its value. So there are
no functions, no graphs within nodes (loops, branches), no sparse tensors, no training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from gpt2_runtime.errors import GraphError
from gpt2_runtime.graphs.graph_signature import Signature, TensorSpec

MOST_GRAPH_BYTES = 4 * 2**20  # gpt2-xl's largest graph has 0.4 MB
MOST_FIELDS = 2**16  # of one message
MOST_CONSTANT_BYTES = 512  # of a tensor or list inside the graph: shapes and masks; weights are in a separate file
MOST_AXES, MOST_NUMBERS = 8, 2**40  # of a tensor

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
EXTERNAL = 1  # data_location: the tensor's data is in another file

TYPES = {1: "float", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "double"}
TYPE_BYTES = {"float": 4, "uint8": 1, "int8": 1, "int32": 4, "int64": 8, "bool": 1, "float16": 2, "double": 8}

# The fields of each message that gpt2-export writes, and those that a runtime ignores.
MODEL = {
    1: "ir_version", 2: "producer_name", 3: "producer_version", 4: "domain", 5: "model_version", 6: "doc_string",
    7: "graph", 8: "opset_import", 14: "metadata_props",
}  # fmt: skip
OPSET = {1: "domain", 2: "version"}
GRAPH = {
    1: "node", 2: "name", 5: "initializer", 10: "doc_string", 11: "input", 12: "output", 13: "value_info",
    16: "metadata_props",
}  # fmt: skip
NODE = {
    1: "input", 2: "output", 3: "name", 4: "op_type", 5: "attribute", 6: "doc_string", 7: "domain",
    9: "metadata_props",
}  # fmt: skip
ATTRIBUTE = {
    1: "name", 2: "f", 3: "i", 4: "s", 5: "t", 7: "floats", 8: "ints", 9: "strings", 13: "doc_string", 20: "type",
}  # fmt: skip
TENSOR = {
    1: "dims", 2: "data_type", 4: "float_data", 5: "int32_data", 7: "int64_data", 8: "name", 9: "raw_data",
    10: "double_data", 11: "uint64_data", 12: "doc_string", 13: "external_data", 14: "data_location",
    16: "metadata_props",
}  # fmt: skip
ENTRY = {1: "key", 2: "value"}
VALUE = {1: "name", 2: "type", 3: "doc_string", 4: "metadata_props"}
TYPE = {1: "tensor_type", 6: "denotation"}
TENSOR_TYPE = {1: "elem_type", 2: "shape"}
SHAPE = {1: "dim"}
DIMENSION = {1: "dim_value", 2: "dim_param", 3: "denotation"}

NUMBERS = ("float_data", "int32_data", "int64_data", "raw_data", "double_data", "uint64_data")

Value = int | memoryview
Message = Mapping[str, list[Value]]


@dataclass(frozen=True, kw_only=True)
class Initializer:
    """A tensor of the graph.

    Attributes:
        type: the element type, such as "float".
        shape: [any number of axes].
        location: the file with its data; None if the data is in the graph.
        offset, bytes: the position of the data in that file.
    """

    type: str
    shape: tuple[int, ...]
    location: str | None
    offset: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """The contents of a graph.

    Attributes:
        signature: its inputs and outputs.
        domains: the operator domains that it declares.
        operators: the operators that it uses; "com.microsoft::FastGelu" outside ONNX's own domain.
        initializers: name -> initializer.
        readers: initializer -> the operators that read it, each with the input's number: "Gather:0".

    >>> graph = OnnxFile.read("model.onnx", (folder / "model.onnx").read_bytes())
    >>> graph.signature.inputs[0].name, sorted(graph.domains), graph.initializers["transformer.wpe.weight"].shape
    ('input_ids', [''], (64, 32))
    """

    signature: Signature
    domains: frozenset[str]
    operators: frozenset[str]
    initializers: Mapping[str, Initializer]
    readers: Mapping[str, frozenset[str]]

    @classmethod
    def read(cls, where: str, data: bytes) -> OnnxFile:
        """The graph in `data`; a GraphError starting with `where` for anything that gpt2-export never writes."""
        try:
            return _model(memoryview(data))
        except _RefusedError as refusal:
            raise GraphError(
                f"{where} is not a graph written by gpt2-export: {refusal}; export the folder again"
            ) from refusal


class _RefusedError(Exception):
    """Why the file is refused."""


def _model(data: memoryview) -> OnnxFile:
    model = _message("model", data, MODEL)
    graph = _message("graph", _bytes(model, "graph"), GRAPH)
    opsets = (_message("opset", _view(opset), OPSET) for opset in model.get("opset_import", []))
    initializers: dict[str, Initializer] = {}
    for tensor in graph.get("initializer", []):
        name, initializer = _initializer(_message("tensor", _view(tensor), TENSOR))
        if name in initializers:
            raise _RefusedError(f"two initializers are called {name!r}")
        initializers[name] = initializer
    operators: set[str] = set()
    readers: dict[bytes, set[str]] = {name.encode(): set() for name in initializers}
    for each in graph.get("node", []):  # one by one, since all at once could take too much memory
        node = _message("node", _view(each), NODE)
        operator = _operator(node)
        operators.add(operator)
        for attribute in node.get("attribute", []):
            _check_attribute(_message("attribute", _view(attribute), ATTRIBUTE))
        for place, value in enumerate(node.get("input", [])):
            if (read := bytes(_view(value))) in readers:
                readers[read].add(f"{operator}:{place}")
    return OnnxFile(
        signature=Signature(inputs=_specs(graph, "input"), outputs=_specs(graph, "output")),
        domains=frozenset(_domain(opset) for opset in opsets),
        operators=frozenset(operators),
        initializers=initializers,
        readers={name: frozenset(readers[name.encode()]) for name in initializers},
    )


def _operator(node: Message) -> str:
    domain, name = _domain(node), _text(node, "op_type")
    return f"{domain}::{name}" if domain else name


def _domain(message: Message) -> str:
    """The operator domain; ONNX's own has two spellings."""
    domain = _text(message, "domain", default="")
    return "" if domain == "ai.onnx" else domain


def _check_attribute(attribute: Message) -> None:
    """Allows only small values, and small tensors stored in the graph."""
    for tensor in attribute.get("t", []):
        _, constant = _initializer(_message("tensor", _view(tensor), TENSOR))
        if constant.location is not None:
            raise _RefusedError("the constant of a node is in another file")
    size = sum(1 if isinstance(v, int) else len(v) for name in ("s", "strings") for v in attribute.get(name, []))
    size += sum(8 if isinstance(v, int) else len(v) for name in ("floats", "ints") for v in attribute.get(name, []))
    if size > MOST_CONSTANT_BYTES:
        raise _RefusedError(f"an attribute has {size} bytes, must have at most {MOST_CONSTANT_BYTES}")


def _initializer(tensor: Message) -> tuple[str, Initializer]:
    name = _text(tensor, "name", default="")
    code = _int(tensor, "data_type", default=0)
    if code not in TYPES:
        raise _RefusedError(f"{name!r} has element type {code}, which weights never have")
    shape = tuple(islice(_integers(tensor, "dims"), MOST_AXES + 1))
    if len(shape) > MOST_AXES or any(axis < 0 for axis in shape) or math.prod(shape) > MOST_NUMBERS:
        raise _RefusedError(f"{name!r} has axes {list(shape)}, which weights never have")
    held = sum(8 if isinstance(value, int) else len(value) for field in NUMBERS for value in tensor.get(field, []))
    expected = math.prod(shape) * TYPE_BYTES[TYPES[code]]
    if _int(tensor, "data_location", default=0) != EXTERNAL:
        if max(held, expected) > MOST_CONSTANT_BYTES or tensor.get("external_data"):
            problem = f"{name!r} is a constant of {max(held, expected):,} bytes in the graph itself"
            raise _RefusedError(f"{problem}, must have at most {MOST_CONSTANT_BYTES}")
        return name, Initializer(type=TYPES[code], shape=shape, location=None, offset=0, bytes=held)
    entries: dict[str, str] = {}
    for entry in tensor.get("external_data", []):
        pair = _message("entry", _view(entry), ENTRY)
        key = _text(pair, "key")
        if key in entries or key not in ("location", "offset", "length"):
            raise _RefusedError(f"{name!r} has a duplicate or unknown entry {key!r} in its external data")
        entries[key] = _text(pair, "value")
    if held or not name or set(entries) != {"location", "offset", "length"}:
        raise _RefusedError(f"{name!r} has no valid position in a weights file")
    offset, length = (_number(name, entries[key]) for key in ("offset", "length"))
    if length != expected:
        raise _RefusedError(f"{name!r} has {length} bytes, its axes {list(shape)} need {expected}")
    location = entries["location"]
    return name, Initializer(type=TYPES[code], shape=shape, location=location, offset=offset, bytes=length)


def _number(name: str, written: str) -> int:
    if not (written.isascii() and written.isdigit() and len(written) <= 18):
        raise _RefusedError(f"{name!r} has the position {written[:40]!r} in its file, which is invalid")
    return int(written)


def _specs(graph: Message, field: str) -> tuple[TensorSpec, ...]:
    return tuple(_spec(_message("value", _view(value), VALUE)) for value in graph.get(field, []))


def _spec(value: Message) -> TensorSpec:
    name = _text(value, "name")
    tensor = _message("tensor type", _bytes(_message("type", _bytes(value, "type"), TYPE), "tensor_type"), TENSOR_TYPE)
    code = _int(tensor, "elem_type", default=0)
    if code not in TYPES:
        raise _RefusedError(f"{name!r} has element type {code}")
    axes: list[int | str] = []
    for each in _message("shape", _bytes(tensor, "shape"), SHAPE).get("dim", []):
        dimension = _message("dimension", _view(each), DIMENSION)
        known = "dim_value" in dimension
        axes.append(_int(dimension, "dim_value") if known else _text(dimension, "dim_param", default=""))
    return TensorSpec(name=name, type=f"tensor({TYPES[code]})", shape=tuple(axes))


def _message(what: str, data: memoryview, known: Mapping[int, str]) -> Message:
    """The fields of a message by name, in file order."""
    fields: dict[str, list[Value]] = {}
    for count, (number, value) in enumerate(_fields(data)):
        if number not in known:
            raise _RefusedError(f"a {what} has the field {number}, which gpt2-export never writes")
        if count >= MOST_FIELDS:
            raise _RefusedError(f"a {what} has more than {MOST_FIELDS} fields")
        fields.setdefault(known[number], []).append(value)
    return fields


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """The number and value of each field; for text, tensors and messages the value is their bytes."""
    at, end = 0, len(data)
    while at < end:
        tag = data[at]
        at += 1
        if tag >= 128:
            tag, at = _varint(data, at - 1)
        wire = tag & 7
        if wire == BYTES:
            if at < end and data[at] < 128:
                size = data[at]
                at += 1
            else:
                size, at = _varint(data, at)
            if size > end - at:
                raise _RefusedError("it ends in the middle of a field")
            yield tag >> 3, data[at : at + size]
            at += size
        elif wire == VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
            if size > end - at:
                raise _RefusedError("it ends in the middle of a number")
            yield tag >> 3, int.from_bytes(data[at : at + size], "little")
            at += size
        else:
            raise _RefusedError(f"a field has the wire type {wire}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """An unsigned number of at most 64 bits, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _RefusedError("it ends in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >= 2**64:
                break
            return value, at
    raise _RefusedError("a number has more than 64 bits")


def _integers(message: Message, name: str) -> Iterator[int]:
    """The integers of a repeated field, packed or not."""
    for value in message.get(name, []):
        if isinstance(value, int):
            yield _signed(value)
            continue
        at = 0
        while at < len(value):
            number, at = _varint(value, at)
            yield _signed(number)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _one(message: Message, name: str) -> Value:
    values = message.get(name, [])
    if len(values) != 1:
        raise _RefusedError(f"it has {len(values)} {name} fields, must have one")
    return values[0]


def _view(value: Value) -> memoryview:
    if isinstance(value, int):
        raise _RefusedError("it has a number in place of a message")
    return value


def _bytes(message: Message, name: str) -> memoryview:
    return _view(_one(message, name))


def _int(message: Message, name: str, default: int | None = None) -> int:
    if default is not None and name not in message:
        return default
    value = _one(message, name)
    if not isinstance(value, int):
        raise _RefusedError(f"{name} is not a number")
    return _signed(value)


def _text(message: Message, name: str, default: str | None = None) -> str:
    if default is not None and name not in message:
        return default
    try:
        return bytes(_bytes(message, name)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _RefusedError(f"{name} is not UTF-8") from error
