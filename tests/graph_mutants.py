"""The mistakes that an exporter or an optimiser makes, applied to a graph that is right."""

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import numpy_helper

Make = Callable[[onnx.GraphProto], None]

MUTANTS: dict[str, Make] = {}


def mistake(name: str) -> Callable[[Make], Make]:
    def enter(make: Make) -> Make:
        MUTANTS[name] = make
        return make

    return enter


def nodes(graph: onnx.GraphProto, operator: str) -> Iterator[onnx.NodeProto]:
    """Those of an operator; there must be one, or the mistake would not be made."""
    found = [node for node in graph.node if node.op_type == operator]
    assert found, f"the graph has no {operator}"
    yield from found


def attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    (found,) = (attribute for attribute in node.attribute if attribute.name == name)
    return found


def place(graph: onnx.GraphProto, weight: str, key: str) -> onnx.StringStringEntryProto:
    """Where a weight lies in model.safetensors: its entry for "offset" or "length"."""
    (tensor,) = (tensor for tensor in graph.initializer if tensor.name == f"transformer.{weight}")
    (entry,) = (entry for entry in tensor.external_data if entry.key == key)
    return entry


@mistake("LayerNorm epsilon of 1e-6 in the graph")
def epsilon(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "LayerNormalization"):
        attribute(node, "epsilon").f = 1e-6


@mistake("erf Gelu in the graph")
def erf_gelu(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "Gelu"):
        attribute(node, "approximate").s = b"none"


@mistake("two layers' matrices swapped in the file")
def swapped_matrices(graph: onnx.GraphProto) -> None:
    one, other = (place(graph, f"h.{layer}.attn.c_proj.weight", "offset") for layer in (0, 1))
    one.value, other.value = other.value, one.value


@mistake("one weight's place off by one number")
def shifted_place(graph: onnx.GraphProto) -> None:
    entry = place(graph, "h.1.mlp.c_fc.weight", "offset")
    entry.value = str(int(entry.value) + 4)


@mistake("weight and bias of a LayerNorm swapped")
def swapped_norm(graph: onnx.GraphProto) -> None:
    node = next(nodes(graph, "LayerNormalization"))
    node.input[1], node.input[2] = node.input[2], node.input[1]


@mistake("scale of the attention lost in folding")
def no_scale(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "Mul"):
        (scale,) = (tensor for tensor in graph.initializer if tensor.name == node.input[1])
        scale.CopyFrom(numpy_helper.from_array(np.ones_like(numpy_helper.to_array(scale)), scale.name))


@mistake("queries and keys split in the other order")
def swapped_split(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "Split"):
        q, k, v = node.output
        node.output[:] = [k, q, v]


@mistake("present before past")
def present_first(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "Concat"):
        if node.input[0].startswith("past_key_values."):
            node.input[:] = reversed(node.input)


@mistake("a token does not see itself in the graph")
def strictly_less(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "LessOrEqual"):
        node.op_type = "Less"


@mistake("attention_mask left out of the graph")
def no_padding(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "And"):
        node.input[1] = node.input[0]


@mistake("a residual connection lost in fusing")
def no_residual(graph: onnx.GraphProto) -> None:
    stream = [node.input[0] for node in nodes(graph, "LayerNormalization")]
    (addition,) = (node for node in nodes(graph, "Add") if node.output[0] == stream[-1])
    addition.input[0] = addition.input[1]
