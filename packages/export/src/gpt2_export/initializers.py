"""The weights of a graph: each a place in model.safetensors, multiplied as it lies there."""

from itertools import pairwise
from pathlib import Path

import onnx_ir as ir
from gpt2_model import GPT2Config
from gpt2_model.weights import TRANSPOSE, from_file_name, stored_name

from gpt2_export.errors import GraphError
from gpt2_export.tensorfile import FLOAT32_BYTES, Place, places


def refer(model: ir.Model, config: GPT2Config, folder: Path, weights: str) -> None:
    """Replaces each weight by its place in the file, in the file's layout."""
    available = places(folder / weights)
    for traced in list(model.graph.initializers.values()):
        traced_shape = tuple(traced.shape or ())
        name = stored_name(_parameter(str(traced.name), config))
        if name not in available:
            raise GraphError(f"the graph needs {name}, which {folder / weights} does not have; freeze the folder again")
        stored = _value(name, available[name], weights, folder)
        transposed = from_file_name(name)[1] == TRANSPOSE
        if available[name].shape != (traced_shape[::-1] if transposed else traced_shape):
            raise GraphError(f"{name} has shape {list(available[name].shape)} in {folder / weights}, not config.json's")
        if transposed:
            _replace_transposed(traced, stored)
        else:
            for transpose in [node for node in traced.consumers() if node.op_type == "Transpose"]:
                _multiply_untransposed(transpose, stored, config.vocab_size)  # the head
            ir.convenience.replace_all_uses_with(traced, stored)
        del model.graph.initializers[str(traced.name)]
        model.graph.initializers.add(stored)


def _parameter(traced_name: str, config: GPT2Config) -> str:
    name = traced_name.removeprefix("model.")
    # Of two names for a tied tensor the exporter keeps one; the file has it as the embedding.
    return "wte.weight" if config.tie_word_embeddings and name == "lm_head.weight" else name


def _value(name: str, place: Place, weights: str, folder: Path) -> ir.Value:
    tensor = ir.ExternalTensor(
        weights,
        place.offset,
        place.nbytes,
        ir.DataType.FLOAT,
        shape=ir.Shape(place.shape),
        name=name,
        base_dir=folder,
    )
    return ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)


def _replace_transposed(traced: ir.Value, stored: ir.Value) -> None:
    """`Transpose(weight)` -> the file's weight, which is stored that way round."""
    for node in list(traced.consumers()):
        if node.op_type != "Transpose":
            raise GraphError(f"{stored.name} is read by {node.op_type}; the tracer used to transpose it first")
        ir.convenience.replace_all_uses_with(node.outputs[0], stored)
        node.graph.remove(node, safe=True)  # type: ignore[union-attr]


def _multiply_untransposed(transpose: ir.Node, stored: ir.Value, vocab_size: int) -> None:
    """`x @ Transpose(head)` -> Gemm, which reads the head as it lies: runtimes would fold the transpose into a copy."""
    (product,) = transpose.outputs[0].consumers()
    x, logits = product.inputs[0], product.outputs[0]
    flat = ir.node("Flatten", [x], {"axis": 2})  # (B, T, C) -> (B*T, C)
    multiplied = ir.node("Gemm", [flat.outputs[0], stored], {"transB": 1})  # (B*T, C), (V, C) -> (B*T, V)
    leading = ir.node("Shape", [x], {"start": 0, "end": 2})
    width = ir.node("Constant", [], {"value": ir.tensor([vocab_size])})
    shape = ir.node("Concat", [leading.outputs[0], width.outputs[0]], {"axis": 0})
    reshaped = ir.node("Reshape", [multiplied.outputs[0], shape.outputs[0]])  # (B*T, V) -> (B, T, V)
    ir.convenience.replace_nodes_and_values(
        product.graph,  # type: ignore[arg-type]
        product,
        [product],
        [flat, multiplied, leading, width, shape, reshaped],
        [logits],
        reshaped.outputs,
    )
    transpose.graph.remove(transpose, safe=True)  # type: ignore[union-attr]


def multiply_in_pieces(model: ir.Model, product: ir.Node, name: str, count: int) -> None:
    """`Gemm(x, head)` -> `count` of them, each over some rows of the head, as initializers that nothing else reads.

    onnxruntime repacks a matrix when it loads it, holds both forms meanwhile, and then lets the file's pages go, unless
    another node reads the same initializer, as the embedding does where the head is tied. In pieces, each a place in
    the file as ever, a head that is a third of all weights raises no peak of memory and leaves no page behind.
    """
    x, head = product.inputs
    if head is None or not isinstance(head.const_value, ir.ExternalTensor):
        raise GraphError("the head is no weight of the file; the tracer used to read it as it lies")
    whole = head.const_value
    V, C = whole.shape.numpy()
    products = []
    for piece, (start, stop) in enumerate(pairwise(V * number // count for number in range(count + 1))):
        row = C * FLOAT32_BYTES
        place = Place(shape=(stop - start, C), offset=(whole.offset or 0) + start * row, nbytes=(stop - start) * row)
        own = _value(f"{name}.{piece}" if count > 1 else name, place, str(whole.location), Path(whole.base_dir))
        products.append(ir.node("Gemm", [x, own], {"transB": 1}))  # (N, C), (rows, C) -> (N, rows)
    if not head.is_graph_input() and len(head.uses()) == 1:
        del model.graph.initializers[str(head.name)]
    for node in products:
        model.graph.initializers.add(node.inputs[1])  # type: ignore[arg-type]
    nodes, last = products, products[0]
    if count > 1:
        last = ir.node("Concat", [node.outputs[0] for node in products], {"axis": 1})  # -> (N, V)
        nodes = [*products, last]
    ir.convenience.replace_nodes_and_values(model.graph, product, [product], nodes, product.outputs, last.outputs)
