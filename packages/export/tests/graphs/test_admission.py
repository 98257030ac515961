"""A graph that gpt2-export did not make is refused before onnxruntime sees it."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from gpt2_export import quantize, verify_folder
from gpt2_export.errors import GraphError
from gpt2_export.folder import manifest
from gpt2_export.graphs import admission, kinds
from gpt2_export.graphs.export import Kind
from gpt2_export.weights import network
from odd_files import ODD, make_odd
from onnx import TensorProto, helper

WEIGHTS = network.WEIGHTS
Change = Callable[[onnx.ModelProto], object]


def admit(path: Path, kind: Kind) -> None:
    admission.admit(path, kind, network.of(path.parent), WEIGHTS)


def test_a_made_graph_is_admitted(made: Path, kind: Kind) -> None:
    admit(made / kind.file, kind)


def test_a_graph_of_another_kind_is_not_admitted(made: Path) -> None:
    for kind in kinds.KINDS:
        for other in kinds.KINDS:
            if other is not kind:
                with pytest.raises(GraphError, match="export it again"):
                    admit(made / other.file, kind)


def _loop() -> onnx.NodeProto:
    body = helper.make_graph([], "body", [], [])
    return helper.make_node("Loop", ["", ""], ["out"], body=body)


def _location(proto: onnx.ModelProto, location: str) -> None:
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location


def _widen(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 10**9


def _add_function(proto: onnx.ModelProto) -> None:
    node = helper.make_node("Add", ["a", "a"], ["b"])
    proto.functions.append(helper.make_function("mine", "F", ["a"], ["b"], [node], [helper.make_opsetid("", 20)]))


def _constant(count: int) -> onnx.TensorProto:
    return helper.make_tensor("mine", TensorProto.FLOAT, [count], [0.0] * count)


CHANGES: dict[str, tuple[Change, str]] = {
    "loop": (lambda p: p.graph.node.append(_loop()), "a Loop with a graph inside"),
    "domain": (lambda p: p.opset_import.append(helper.make_opsetid("evil", 1)), "operators of 'evil'"),
    "operator": (lambda p: p.graph.node.append(helper.make_node("Einsum", ["a"], ["b"])), "Einsum, which"),
    "contrib": (
        lambda p: p.graph.node.append(helper.make_node("Sampling", ["a"], ["b"], domain="com.microsoft")),
        "com.microsoft::Sampling, which",
    ),
    "function": (_add_function, "the graph has functions"),
    "constant": (lambda p: p.graph.initializer.append(_constant(17)), "holds weights of its own, mine"),
    "constant node": (
        lambda p: p.graph.node.append(helper.make_node("Constant", [], ["mine"], value=_constant(17))),
        "holds weights of its own, mine",
    ),
    "list": (
        lambda p: p.graph.node.append(helper.make_node("Constant", [], ["a"], value_ints=list(range(2000)))),
        "a Constant whose value_ints is too long",
    ),
    "text": (
        lambda p: p.graph.node.append(helper.make_node("Constant", [], ["a"], value_string="x" * 2000)),
        "a Constant whose value_string is too long",
    ),
    "other file": (lambda p: _location(p, "config.json"), "reads 'config.json', it may read only model.safetensors"),
    "outside": (lambda p: _location(p, "../secret"), "reads '../secret', it may read only"),
    "device": (lambda p: _location(p, "/dev/zero"), "reads '/dev/zero', it may read only"),
    "axis": (_widen, "the contract says"),
    "input": (lambda p: p.graph.input.pop(), "not those of the contract"),
    "output": (lambda p: p.graph.output.pop(), "not those of the contract"),
    "type": (lambda p: setattr(p.graph.input[0].type.tensor_type, "elem_type", 99), "is damaged"),
    "empty": (lambda p: p.graph.Clear(), "not those of the contract"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_foreign_graph_is_refused_by_what_it_has(made_copy: Path, kind: Kind, name: str) -> None:
    change, message = CHANGES[name]
    proto = onnx.load(made_copy / kind.file, load_external_data=False)
    change(proto)
    (made_copy / kind.file).write_bytes(proto.SerializeToString())
    with pytest.raises(GraphError, match=re.escape(message)) as caught:
        admit(made_copy / kind.file, kind)
    assert "; export it again with `gpt2-export onnx`" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("content", [b"", b"\x08", b"\xff" * 99, b"\n" * 10**5, b"\x3a\x04\x0a\x02\x0a\x00"])
def test_a_file_that_is_not_a_graph_is_refused(made_copy: Path, kind: Kind, content: bytes) -> None:
    (made_copy / kind.file).write_bytes(content)
    with pytest.raises(GraphError, match=re.escape(kind.file)):
        admit(made_copy / kind.file, kind)


def test_a_graph_as_large_as_memory_is_refused(made_copy: Path, kind: Kind) -> None:
    with (made_copy / kind.file).open("ab") as file:
        file.truncate(10**9)
    with pytest.raises(GraphError, match="it has 1,000,000,000 bytes, a graph has at most 64,000,000"):
        admit(made_copy / kind.file, kind)


@pytest.mark.parametrize("odd", ODD)
def test_a_graph_that_is_not_a_plain_file_is_refused_at_once(
    made_copy: Path, kind: Kind, odd: str, refusal: Callable[..., str]
) -> None:
    make_odd(made_copy / kind.file, odd)
    for command in (["inspect"], ["verify"], ["onnx"], ["quantize", "--precision", "int8"], ["push", "--dry-run"]):
        words = [*command[:1], made_copy, *(["a/b"] if command[0] == "push" else []), *command[1:]]
        assert re.search(rf"{kind.file} (is .*, not a plain file|cannot be read)", refusal(*words))


def test_verify_and_quantize_run_no_foreign_graph(made_copy: Path) -> None:
    proto = onnx.load(made_copy / "model_serving.onnx", load_external_data=False)
    proto.graph.node.append(_loop())
    (made_copy / "model_serving.onnx").write_bytes(proto.SerializeToString())
    document = manifest.read(made_copy)
    files = {**document.files, **manifest.entries(made_copy, ["model_serving.onnx"])}
    (made_copy / manifest.MANIFEST).write_text(manifest.text(replace(document, files=files)))
    for command in (verify_folder, lambda folder: quantize(folder, ["int8"])):
        with pytest.raises(GraphError, match=r"model_serving\.onnx: the graph has a Loop with a graph inside"):
            command(made_copy)
