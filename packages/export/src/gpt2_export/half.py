"""fp16: matrices and embeddings in half precision, for GPUs and for size.

Products of a layer, and attention over the serving graph's cache, are computed in float16; residuals, LayerNorm, GELU
and logits in float32, and so is softmax: GroupQueryAttention's own, or an operator of the portable graph. The head is
made float32 when the graph is loaded, for in float16 a logit of -100 would be a multiple of 1/16.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
from gpt2_model import GPT2Config
from gpt2_model.weights import from_file_name

from gpt2_export.errors import PrecisionError
from gpt2_export.initializers import refer_again
from gpt2_export.nbits import is_matrix
from gpt2_export.tensorfile import Form, Place, places, read

LARGEST = float(np.finfo(np.float16).max)
OPERATORS = frozenset(("Cast",))


def tensors(config: GPT2Config, source: Path, keep: Collection[str]) -> tuple[dict[str, Form], Iterator[np.ndarray]]:
    """What the file of weights holds: see `nbits.tensors`.

    Raises:
        PrecisionError: when a tensor is read that has numbers beyond float16.
    """
    found = places(source)
    halved = {name for name in found if _is_halved(from_file_name(name)[0]) and from_file_name(name)[0] not in keep}
    forms = {name: Form(place.shape, "F16" if name in halved else "F32") for name, place in found.items()}
    return forms, (_array(source, name, place, name in halved) for name, place in found.items())


def convert(model: ir.Model, config: GPT2Config, file: Path) -> None:
    """Puts a cast wherever a tensor passes from float32 to float16 and back.

    Args:
        model: a graph over the float32 weights.
        config: of the network.
        file: that `tensors` went to.
    """
    refer_again(model, file)
    graph = model.graph
    for node in list(graph):
        if node.op_type == "GroupQueryAttention":
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


def rounded(parameter: str, weight: np.ndarray) -> np.ndarray:
    """What is left of a matrix."""
    return weight.astype(np.float16).astype(np.float32)


def _is_halved(parameter: str) -> bool:
    return is_matrix(parameter) or parameter == "wpe.weight"


def _is_half(value: ir.Value) -> bool:
    return value.is_initializer() and value.dtype == ir.DataType.FLOAT16


def _array(source: Path, name: str, place: Place, halved: bool) -> np.ndarray:
    array = read(source, place)
    if not halved:
        return array
    largest = float(np.abs(array).max(initial=0))
    if largest > LARGEST:
        raise PrecisionError(f"{name} has a weight of {largest:.4g}, float16 ends at {LARGEST:.0f}; pass --keep for it")
    return array.astype(np.float16)


def _cast_inputs(graph: ir.Graph, node: ir.Node, inputs: list[int], to: ir.DataType) -> None:
    for place in inputs:
        cast = ir.node("Cast", [node.inputs[place]], {"to": to})
        graph.insert_before(node, cast)
        node.replace_input_with(place, cast.outputs[0])


def _cast_output(graph: ir.Graph, node: ir.Node) -> None:
    """What reads the node's first output reads it in float32."""
    half = node.outputs[0]
    cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT})
    half.type = ir.TensorType(ir.DataType.FLOAT16)
    ir.convenience.replace_all_uses_with(half, cast.outputs[0])
    cast.replace_input_with(0, half)
    graph.insert_after(node, cast)
