"""fp16: matrices and embeddings in half precision, for GPUs and for size.

A layer's products, and attention over the serving graph's cache, are computed in float16; residuals, LayerNorm, GELU
and logits in float32, and softmax too, whether GroupQueryAttention's own or the portable graph's operator. The head is
widened to float32 at load time, because in float16 a logit of -100 would be a multiple of 1/16.

On a GPU a one-token step takes about as long as launching its kernels one after another. So the serving graph has fewer
of them in this precision: a residual, its bias and the next LayerNorm are one SkipLayerNormalization, still in float32,
and attention's input gets its bias in float16. (On the CPU that operator is slower.)
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
from gpt2_model import GPT2Config
from gpt2_model.weights import map_tensor_name

from gpt2_export.errors import PrecisionError
from gpt2_export.precision.nbits import is_matrix
from gpt2_export.weights.initializers import refer_again
from gpt2_export.weights.safetensors_file import Form, Place, places, read

LARGEST = float(np.finfo(np.float16).max)
OPERATORS = frozenset(("Cast", "com.microsoft::SkipLayerNormalization"))


def tensors(config: GPT2Config, source: Path, keep: Collection[str]) -> tuple[dict[str, Form], Iterator[np.ndarray]]:
    """The content of the weights file; see `nbits.tensors`.

    Raises:
        PrecisionError: on reading a tensor with numbers beyond float16.
    """
    stored = places(source)
    halved = {name for name in stored if is_halved(map_tensor_name(name)[0]) and map_tensor_name(name)[0] not in keep}
    forms = {name: Form(place.shape, "F16" if name in halved else "F32") for name, place in stored.items()}
    return forms, (_array(source, name, place, name in halved) for name, place in stored.items())


def convert(model: ir.Model, config: GPT2Config, file: Path) -> None:
    """Adds a cast wherever a tensor passes between float32 and float16.

    Args:
        model: a graph over the float32 weights.
        config: of the network.
        file: the one written from `tensors`.
    """
    refer_again(model, file)
    graph = model.graph
    for node in list(graph):
        if node.op_type == "GroupQueryAttention":
            if not _add_in_half(graph, node):
                _cast_inputs(graph, node, [0], ir.DataType.FLOAT16)
            _cast_output(graph, node)
            for value in (*node.inputs[3:5], *node.outputs[1:3]):
                value.type = ir.TensorType(ir.DataType.FLOAT16)  # type: ignore[union-attr]
            continue
        weights = [place for place, value in enumerate(node.inputs) if value is not None and _is_half(value)]
        if not weights:
            continue
        if node.op_type == "Gemm":
            _cast_inputs(graph, node, weights, ir.DataType.FLOAT)
        elif node.op_type in ("MatMul", "Gather"):
            if node.op_type == "MatMul":
                _cast_inputs(graph, node, [0], ir.DataType.FLOAT16)
            _cast_output(graph, node)
    if _serves(model):
        for norm in [node for node in graph if node.op_type == "LayerNormalization"]:
            _take_residual(graph, norm)


def op_counts(config: GPT2Config, counts: Mapping[str, int]) -> dict[str, int]:
    """A kind's counts in this precision: every norm but the first and the last absorbs a residual, two Adds."""
    if "GroupQueryAttention" not in counts:
        return {**counts, "SkipLayerNormalization": 0}
    fused = 2 * config.n_layer - 1
    norms, adds = counts["LayerNormalization"] - fused, counts["Add"] - 2 * fused
    return {**counts, "SkipLayerNormalization": fused, "LayerNormalization": norms, "Add": adds}


def dequantized(parameter: str, weight: np.ndarray) -> np.ndarray:
    """A matrix after rounding to float16."""
    return weight.astype(np.float16).astype(np.float32)


def is_halved(parameter: str) -> bool:
    """Whether a parameter is stored in float16, unless it is kept.

    >>> is_halved("wte.weight"), is_halved("wpe.weight"), is_halved("ln_f.weight")
    (True, True, False)
    """
    return is_matrix(parameter) or parameter == "wpe.weight"


def _serves(model: ir.Model) -> bool:
    """Whether a graph is the serving graph."""
    return any(node.op_type == "GroupQueryAttention" for node in model.graph)


def _is_half(value: ir.Value) -> bool:
    return value.is_initializer() and value.dtype == ir.DataType.FLOAT16


def _array(source: Path, name: str, place: Place, halved: bool) -> np.ndarray:
    array = read(source, place)
    if not halved:
        return array
    largest = float(np.abs(array).max(initial=0))
    if largest > LARGEST:
        layer = map_tensor_name(name)[0].removesuffix(".weight")  # the name for --keep
        raise PrecisionError(
            f"{layer} has a weight of {largest:.4g}, float16 ends at {LARGEST:.0f}; "
            f"keep it in float32 with keep (--keep {layer})"
        )
    return array.astype(np.float16)


def _add_in_half(graph: ir.Graph, attention: ir.Node) -> bool:
    """Adds the bias of attention's input in float16, if the product before it is; returns whether it is."""
    add = attention.inputs[0].producer()  # type: ignore[union-attr]
    assert add is not None
    assert add.op_type == "Add"
    cast = add.inputs[0].producer()  # type: ignore[union-attr]
    assert cast is not None
    if cast.op_type != "Cast":  # a kept matrix
        return False
    add.replace_input_with(0, cast.inputs[0])
    _cast_inputs(graph, add, [1], ir.DataType.FLOAT16)
    add.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)
    graph.remove(cast, safe=True)
    return True


def _take_residual(graph: ir.Graph, norm: ir.Node) -> None:
    """Fuses a LayerNorm, the residual before it and the bias before that into one operator, if they exist."""
    residual = norm.inputs[0].producer()  # type: ignore[union-attr]
    biased = residual.inputs[1].producer() if residual is not None and residual.op_type == "Add" else None  # type: ignore[union-attr]
    if residual is None or biased is None or biased.op_type != "Add":
        return  # the first norm, after the embeddings; the last, after rows are selected
    skip = ir.node(
        "SkipLayerNormalization",
        [biased.inputs[0], residual.inputs[0], *norm.inputs[1:], biased.inputs[1]],
        {"epsilon": norm.attributes["epsilon"].as_float()},
        domain="com.microsoft",
        num_outputs=4,
    )
    skip.outputs[1].name = skip.outputs[2].name = ""  # mean and variance, used in training
    old, new = (norm.outputs[0], residual.outputs[0]), (skip.outputs[0], skip.outputs[3])
    ir.convenience.replace_nodes_and_values(graph, norm, [biased, residual, norm], [skip], old, new)


def _cast_inputs(graph: ir.Graph, node: ir.Node, inputs: list[int], to: ir.DataType) -> None:
    for place in inputs:
        value = node.inputs[place]
        assert value is not None
        back = value.producer()
        if back is not None and back.op_type == "Cast" and back.inputs[0].dtype == to:  # type: ignore[union-attr]
            node.replace_input_with(place, back.inputs[0])
            if not value.uses():
                graph.remove(back, safe=True)
            continue
        cast = ir.node("Cast", [value], {"to": to})
        graph.insert_before(node, cast)
        node.replace_input_with(place, cast.outputs[0])


def _cast_output(graph: ir.Graph, node: ir.Node) -> None:
    """Casts the node's first output to float32 for its readers."""
    half = node.outputs[0]
    cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT})
    half.type = ir.TensorType(ir.DataType.FLOAT16)
    ir.convenience.replace_all_uses_with(half, cast.outputs[0])
    cast.replace_input_with(0, half)
    graph.insert_after(node, cast)
