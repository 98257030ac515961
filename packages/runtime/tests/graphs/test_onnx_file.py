"""The reader of ONNX files: what gpt2-export writes is read, all else is refused in one line, whatever the bytes."""

import re
import time

import pytest
import wire
from gpt2_runtime.errors import GraphError
from gpt2_runtime.graphs.graph_signature import Signature, TensorSpec
from gpt2_runtime.graphs.onnx_file import MOST_CONSTANT_BYTES, MOST_GRAPH_BYTES, OnnxFile
from gpt2_runtime.providers.providers import load_onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import field, node, tensor, with_more


@pytest.fixture(scope="module")
def data(folder):
    return (folder / "model_serving_int8.onnx").read_bytes()


def test_every_graph_of_the_folder_is_read_as_onnxruntime_reads_it(folder):
    onnxruntime = load_onnxruntime()
    for path in sorted(folder.glob("*.onnx")):
        opened = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        inputs, outputs = (
            tuple(TensorSpec(name=each.name, type=each.type, shape=tuple(each.shape)) for each in side)
            for side in (opened.get_inputs(), opened.get_outputs())
        )
        assert OnnxFile.read(str(path), path.read_bytes()).signature == Signature(inputs=inputs, outputs=outputs)


def test_operators_and_weights_are_listed(data):
    graph = OnnxFile.read("g", data)
    assert graph.domains == {"", "com.microsoft"}
    assert {"Gather", "com.microsoft::MatMulNBits", "com.microsoft::GroupQueryAttention"} < graph.operators
    blocks = graph.initializers["transformer.wte.weight.blocks"]
    assert (blocks.type, blocks.shape, blocks.location, blocks.bytes) == (
        "uint8",
        (300, 1, 32),
        "model_int8.safetensors",
        9600,
    )


CONSTANT = MOST_CONSTANT_BYTES + 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (field(wire.SPARSE, b""), "a graph has the field 15"),
        (node("Add", field(1, "body") + field(6, b"")), "a attribute has the field 6"),  # a graph: of Loop, If, Scan
        (node("Add", field(1, "bodies") + field(11, b"")), "the field 11"),
        (node("Add", field(1, "x") + field(3, 1) + field(21, "outer")), "the field 21"),  # of a function
        (field(wire.NODE, field(4, "Add") + field(4, "Loop")), "it has 2 op_type fields"),
        (field(wire.NODE, field(1, "x")), "it has 0 op_type fields"),
        (field(wire.NODE, field(4, b"\xff")), "op_type is not UTF-8"),
        (field(wire.NODE, 7), "it has a number in place of a message"),
        (node("Add", field(1, "x") + field(8, b"\1" * CONSTANT)), f"an attribute has {CONSTANT} bytes, must have at"),
        (node("Add", field(1, "x") + field(4, b"\1" * CONSTANT)), f"an attribute has {CONSTANT} bytes, must have at"),
        (
            node("Constant", field(1, "v") + field(5, tensor("", [999], 1, field(9, b"\1" * 3996)))),
            "is a constant of 3,996 bytes in the graph itself",
        ),
        (
            node("Constant", field(1, "v") + field(5, tensor("v", [1], 1, wire.placed("w", 0, 4)))),
            "the constant of a node is in another file",
        ),
        (field(5, tensor("a", [CONSTANT], 2, field(9, b"\1" * CONSTANT))), "is a constant of 513 bytes in the graph"),
        (field(5, tensor("a", [10**9], 1)), "is a constant of 4,000,000,000 bytes"),
        (field(5, tensor("a", [2**62, 2**62], 1)), "has axes"),
        (field(5, tensor("a", [-1], 1)), r"has axes \[-1\]"),
        (field(5, tensor("a", [1] * 100_000, 1)), "has more than 65536 fields"),
        (field(5, tensor("a", [1] * 9, 1)), "has axes"),
        (field(5, tensor("a", [2], 8)), "'a' has element type 8"),
        (field(5, tensor("a", [2], 1, field(6, b"x"))), "a tensor has the field 6"),
        (field(5, tensor("a", [1], 1)) * 2, "two initializers are called 'a'"),
        (field(5, tensor("a", [2], 1, wire.placed("w", 0, 9))), r"'a' has 9 bytes, its axes \[2\] need 8"),
        (field(5, tensor("a", [2], 1, wire.placed("w", -8, 8))), "'a' has the position '-8' in its file"),
        (field(5, tensor("a", [2], 1, wire.placed("w", "9" * 5000, 8))), "which is invalid"),
        (field(5, tensor("a", [2], 1, wire.placed("w", "0x8", 8))), "which is invalid"),
        (field(5, tensor("a", [2], 1, field(14, 1))), "has no valid position in a weights file"),
        (field(5, tensor("a", [2], 1, wire.placed("w", 0, 8), field(9, b"\1" * 8))), "has no valid position"),
        (
            field(5, tensor("a", [2], 1, wire.placed("w", 0, 8), field(13, field(1, "length") + field(2, "8")))),
            "duplicate or unknown entry 'length'",
        ),
        (field(5, tensor("a", [2], 1, field(13, field(1, "checksum") + field(2, "x")))), "in the graph itself"),
        (field(wire.INPUT, field(1, "x") + field(2, field(4, b""))), "a type has the field 4"),  # a sequence
    ],
)
def test_what_gpt2_export_never_writes_into_a_graph_is_refused(data, more, message):
    with pytest.raises(GraphError, match=f"^g.onnx is not a graph written by gpt2-export: .*{message}") as refusal:
        OnnxFile.read("g.onnx", with_more(data, more))
    assert str(refusal.value).endswith("; export the folder again")


def test_a_small_constant_is_read(data):
    constant = field(5, tensor("", [99], 1, field(9, b"\1" * 396)))
    assert "Constant" in OnnxFile.read("g", with_more(data, node("Constant", field(1, "value") + constant))).operators


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (field(25, b""), "a model has the field 25"),  # functions
        (field(20, b""), "a model has the field 20"),  # training
        (field(7, b""), "it has 2 graph fields"),  # which protobuf would merge
        (b"\xff" * 11, "a number has more than 64 bits"),
        (b"\x08", "it ends in the middle of a number"),
        (b"\x0b", "a field has the wire type 3"),
        (b"\x0d\x01", "it ends in the middle of a number"),
        (b"\x3a\xff\xff\x03", "it ends in the middle of a field"),
    ],
)
def test_what_gpt2_export_never_writes_into_a_model_is_refused(data, more, message):
    with pytest.raises(GraphError, match=message):
        OnnxFile.read("g", data + more)


@pytest.mark.parametrize("nothing", [b"", b"\0", b"\x42\0"])
def test_no_model_is_refused(nothing):
    with pytest.raises(GraphError, match="is not a graph written by gpt2-export"):
        OnnxFile.read("g", nothing)


@pytest.mark.nightly
def test_a_file_of_the_largest_size_takes_neither_long_nor_much_memory(data, resident):
    """Of fields as small as they can be, in all the places that have many."""
    nothing = field(1, b"")
    many = wire.field(wire.NODE, nothing * 60_000 + field(4, "Add"))
    tensors = b"".join(field(5, tensor(str(number), [1], 2)) for number in range(60_000))
    for more in (many * (MOST_GRAPH_BYTES // len(many)), field(wire.NODE, b"") * 60_000, tensors):
        model, before, start = with_more(data, more), resident(), time.process_time()
        try:
            OnnxFile.read("g", model)
        except GraphError as refusal:
            assert "it has 0 op_type fields" in str(refusal)  # noqa: PT017
        assert time.process_time() - start < 10
        assert resident() - before < 200e6


def changed(data, drawn):
    """The bytes, some of them flipped, cut out, put in or doubled."""
    made = bytearray(data)
    for _ in range(drawn.draw(st.integers(1, 8))):
        if not made:
            break
        place = drawn.draw(st.integers(0, len(made) - 1))
        match drawn.draw(st.sampled_from(["flip", "cut", "put", "double"])):
            case "flip":
                made[place] = drawn.draw(st.integers(0, 255))
            case "cut":
                del made[place : place + drawn.draw(st.integers(1, 64))]
            case "put":
                made[place:place] = drawn.draw(st.binary(min_size=1, max_size=16))
            case _:
                made[place:place] = made[place : place + 64]
    return bytes(made)


def read_or_refused(data):
    try:
        OnnxFile.read("g", data)
    except GraphError as refusal:
        assert re.fullmatch("g is not a graph written by gpt2-export: .*; export the folder again", str(refusal))  # noqa: PT017


@given(st.data())
def test_any_bytes_are_read_or_refused_in_one_line(data, drawn):
    read_or_refused(changed(data, drawn))


@pytest.mark.nightly
@settings(max_examples=5000)
@given(st.data())
def test_so_are_many_more(data, drawn):
    read_or_refused(changed(data, drawn))


@given(st.binary(max_size=300))
def test_bytes_of_no_meaning_are_refused(drawn):
    with pytest.raises(GraphError):
        OnnxFile.read("g", drawn)
