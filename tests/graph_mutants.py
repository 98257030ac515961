"""Known bugs of exporters and optimisers, applied to a correct graph."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

Make = Callable[[onnx.GraphProto], None]


class Mutant(NamedTuple):
    """A bug, and the checkpoint that exposes it."""

    variant: str
    make: Make


MUTANTS: dict[str, Mutant] = {}
"""For the portable graph."""
SERVING: dict[str, Mutant] = {}
EXPLAIN: dict[str, Mutant] = {}


def mistake(name: str, into: dict[str, Mutant] = MUTANTS, variant: str = "as published") -> Callable[[Make], Make]:
    def enter(make: Make) -> Make:
        into[name] = Mutant(variant, make)
        return make

    return enter


def nodes(graph: onnx.GraphProto, operator: str) -> Iterator[onnx.NodeProto]:
    """The nodes of an operator; there must be one, or the bug would not be made."""
    matches = [node for node in graph.node if node.op_type == operator]
    assert matches, f"the graph has no {operator}"
    yield from matches


def attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    (match,) = (attribute for attribute in node.attribute if attribute.name == name)
    return match


def rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Renames a node's inputs."""
    node.input[:] = [names.get(name, name) for name in node.input]


def place(graph: onnx.GraphProto, weight: str, key: str) -> onnx.StringStringEntryProto:
    """A weight's entry for its place in model.safetensors, "offset" or "length"."""
    (tensor,) = (tensor for tensor in graph.initializer if tensor.name in (weight, f"transformer.{weight}"))
    (entry,) = (entry for entry in tensor.external_data if entry.key == key)
    return entry


@mistake("LayerNorm epsilon of 1e-6 in the serving graph", into=SERVING)
@mistake("LayerNorm epsilon of 1e-6 in the graph")
def epsilon(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "LayerNormalization"):
        attribute(node, "epsilon").f = 1e-6


@mistake("LayerNorm epsilon of 1e-6 in the lens", into=EXPLAIN)
def lens_epsilon(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "LayerNormalization"):
        if "ln_f" in node.input[1]:
            attribute(node, "epsilon").f = 1e-6


@mistake("attention before the mask", into=EXPLAIN)
def unmasked_attention(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "Softmax"):
        (mask,) = (where for where in nodes(graph, "Where") if where.output[0] == node.input[0])
        rename(node, {mask.output[0]: mask.input[2]})


@mistake("the lens of one layer read for another", into=EXPLAIN)
def swapped_lens(graph: onnx.GraphProto) -> None:
    first, second, *_ = (node for node in nodes(graph, "LayerNormalization") if "ln_f" in node.input[1])
    first.input[0], second.input[0] = second.input[0], first.input[0]


@mistake("erf Gelu in the graph")
def erf_gelu(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "Gelu"):
        attribute(node, "approximate").s = b"none"


@mistake("two layers' matrices swapped in the file of the serving graph", into=SERVING)
@mistake("two layers' matrices swapped in the file")
def swapped_matrices(graph: onnx.GraphProto) -> None:
    one, other = (place(graph, f"h.{layer}.attn.c_proj.weight", "offset") for layer in (0, 1))
    one.value, other.value = other.value, one.value


@mistake("one weight's place off by one number in the serving graph", into=SERVING)
@mistake("one weight's place off by one number")
def shifted_place(graph: onnx.GraphProto) -> None:
    entry = place(graph, "h.1.mlp.c_fc.weight", "offset")
    entry.value = str(int(entry.value) + 4)


@mistake("weight and bias of a LayerNorm swapped in the serving graph", into=SERVING)
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


@mistake("epsilon of the last LayerNorm alone lost in the serving graph", into=SERVING, variant="epsilon")
def last_epsilon(graph: onnx.GraphProto) -> None:
    *_, norm = nodes(graph, "LayerNormalization")
    norm.attribute.remove(attribute(norm, "epsilon"))


@mistake("erf Gelu in the serving graph", into=SERVING)
def fused_erf_gelu(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "FastGelu"):
        node.op_type = "BiasGelu"


@mistake("tanh Gelu for the erf one in the serving graph", into=SERVING, variant="gelu")
def fused_tanh_gelu(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "BiasGelu"):
        node.op_type = "FastGelu"


@mistake("bias of a Gelu dropped in fusing", into=SERVING)
def no_gelu_bias(graph: onnx.GraphProto) -> None:
    del next(nodes(graph, "FastGelu")).input[1]


@mistake("bias of a projection lost in the serving graph", into=SERVING)
def no_bias(graph: onnx.GraphProto) -> None:
    node = next(node for node in nodes(graph, "Add") if node.input[1].endswith("attn.c_proj.bias"))
    for reader in graph.node:
        rename(reader, {node.output[0]: node.input[0]})


@mistake("the normalised stream used as the residual stream", into=SERVING)
def normalised_stream(graph: onnx.GraphProto) -> None:
    norm = next(nodes(graph, "LayerNormalization"))
    for node in nodes(graph, "Add"):
        rename(node, {norm.input[0]: norm.output[0]})


@mistake("the residual connection of a layer lost in the serving graph", into=SERVING)
def no_skip(graph: onnx.GraphProto) -> None:
    _, norm, *_ = nodes(graph, "LayerNormalization")
    (addition,) = (node for node in nodes(graph, "Add") if node.output[0] == norm.input[0])
    for reader in graph.node:
        rename(reader, {addition.output[0]: addition.input[1]})


@mistake("scale of the attention lost in the serving graph", into=SERVING, variant="scaled by layer")
def default_scale(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "GroupQueryAttention"):  # the operator's default is 1/sqrt(D)
        node.attribute.remove(attribute(node, "scale"))


@mistake("half the number of heads, each twice as wide", into=SERVING)
def wider_heads(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "GroupQueryAttention"):
        for name in ("num_heads", "kv_num_heads"):
            attribute(node, name).i //= 2
    for value in (*graph.input, *graph.output):
        if value.name.startswith(("past_key_values.", "present.")):
            _, heads, _, size = value.type.tensor_type.shape.dim
            heads.dim_value, size.dim_value = heads.dim_value // 2, size.dim_value * 2


@mistake("attention over a window", into=SERVING)
def window(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "GroupQueryAttention"):
        node.attribute.append(helper.make_attribute("local_window_size", 8))


@mistake("queries and keys packed in the other order", into=SERVING)
def swapped_packing(graph: onnx.GraphProto) -> None:
    node = next(nodes(graph, "GroupQueryAttention"))
    split = helper.make_node("Split", [node.input[0]], ["q", "k", "v"], axis=-1, num_outputs=3)
    packed = helper.make_node("Concat", ["k", "q", "v"], ["kqv"], axis=-1)
    at = list(graph.node).index(node)
    node.input[0] = "kqv"
    graph.node.insert(at, packed)
    graph.node.insert(at, split)


@mistake("the caches of two layers swapped in the serving graph", into=SERVING)
def swapped_caches(graph: onnx.GraphProto) -> None:
    names = {
        f"past_key_values.{i}.{part}": f"past_key_values.{1 - i}.{part}" for i in (0, 1) for part in ("key", "value")
    }
    for node in nodes(graph, "GroupQueryAttention"):
        rename(node, names)


@mistake("keys read for values in the serving graph", into=SERVING)
def keys_for_values(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "GroupQueryAttention"):
        node.input[3], node.input[4] = node.input[4], node.input[3]


@mistake("the head read from a row below the embedding", into=SERVING)
def shifted_head(graph: onnx.GraphProto) -> None:
    entry = place(graph, "lm_head.weight", "offset")
    entry.value = str(int(entry.value) + 4 * 32)


@mistake("an untied head read from the embedding's place", into=SERVING, variant="untied")
def tied_head(graph: onnx.GraphProto) -> None:
    place(graph, "lm_head.weight", "offset").value = place(graph, "wte.weight", "offset").value


@mistake("logits of the position before the requested one", into=SERVING)
def place_before(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    for node in graph.node:
        rename(node, {"logits_index": "index_before"})
    graph.node.insert(0, helper.make_node("Sub", ["logits_index", "one"], ["index_before"]))


@mistake("logits without the last LayerNorm", into=SERVING)
def no_last_norm(graph: onnx.GraphProto) -> None:
    *_, norm = nodes(graph, "LayerNormalization")
    (head,) = nodes(graph, "Gemm")
    head.input[0] = norm.input[0]


@mistake("every token at the first position in the serving graph", into=SERVING)
def one_position(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "first"))
    for node in graph.node:
        rename(node, {"position_ids": "no_positions"})
    graph.node.insert(0, helper.make_node("Mul", ["position_ids", "first"], ["no_positions"]))
