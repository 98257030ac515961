"""A graph's weights as references into model.safetensors, multiplied in the file's layout."""

import math
from itertools import pairwise
from pathlib import Path

import onnx_ir as ir
from gpt2_model import GPT2Config
from gpt2_model.weights import TRANSPOSE, map_tensor_name, stored_name

from gpt2_export.errors import GraphError
from gpt2_export.weights.safetensors_file import Place, places

DATA_TYPES = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "U8": ir.DataType.UINT8}
TIED_NAME = stored_name("wte.weight")


def refer(model: ir.Model, config: GPT2Config, file: Path) -> None:
    """Replaces each weight with a reference into the file, in the file's layout."""
    available = places(file)
    for traced in list(model.graph.initializers.values()):
        traced_shape = tuple(traced.shape or ())
        name = stored_name(_parameter(str(traced.name), config))
        if name not in available:
            raise GraphError(f"the graph needs {name}, which {file} does not have; freeze the folder again")
        stored = initializer(name, available[name], file)
        transposed = map_tensor_name(name)[1] == TRANSPOSE
        if available[name].shape != (traced_shape[::-1] if transposed else traced_shape):
            raise GraphError(f"{name} has shape {list(available[name].shape)} in {file}, not config.json's")
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
    # The exporter keeps one of a tied tensor's two names; in the file it is the embedding.
    return "wte.weight" if config.tie_word_embeddings and name == "lm_head.weight" else name


def initializer(name: str, place: Place, file: Path, shape: tuple[int, ...] | None = None) -> ir.Value:
    """A tensor of a safetensors file as a graph's initializer, read in another `shape` if given."""
    tensor = ir.ExternalTensor(
        file.name,
        place.offset,
        place.nbytes,
        DATA_TYPES[place.dtype],
        shape=ir.Shape(place.shape if shape is None else shape),
        name=name,
        base_dir=file.parent,
    )
    return ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)


def refer_again(model: ir.Model, file: Path) -> None:
    """Points every remaining reference into the float32 file at another file, which must have all of them.

    Raises:
        GraphError: it lacks one.
    """
    available = places(file, tuple(DATA_TYPES))
    for name, old in list(model.graph.initializers.items()):
        tensor = old.const_value
        if not isinstance(tensor, ir.ExternalTensor) or tensor.location == file.name:
            continue
        del model.graph.initializers[name]
        if not old.uses():
            continue
        if name not in available:
            raise GraphError(f"the graph needs {name}, which {file} does not have")
        new = initializer(name, available[name], file)
        ir.convenience.replace_all_uses_with(old, new)
        model.graph.initializers.add(new)


def _replace_transposed(traced: ir.Value, stored: ir.Value) -> None:
    """`Transpose(weight)` -> the file's weight, which is stored transposed."""
    for node in list(traced.consumers()):
        if node.op_type != "Transpose":
            raise GraphError(f"{stored.name} is read by {node.op_type}; the tracer used to transpose it first")
        ir.convenience.replace_all_uses_with(node.outputs[0], stored)
        node.graph.remove(node, safe=True)  # type: ignore[union-attr]


def _multiply_untransposed(transpose: ir.Node, stored: ir.Value, vocab_size: int) -> None:
    """`x @ Transpose(head)` -> Gemm, which reads the head as stored: runtimes would fold the transpose into a copy."""
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


def multiply_in_pieces(model: ir.Model, product: ir.Node, name: str, piece_bytes: int) -> None:
    """Splits the product of x and the head into several, each over some rows that nothing else reads.

    onnxruntime repacks a matrix at load time, holds both forms meanwhile, and then drops the file's pages, unless
    another node reads the same initializer, as the embedding does if the head is tied. In pieces, each still a
    reference into the file, a head that is a third of all weights causes no memory peak and leaves no pages behind.

    Args:
        model: the graph.
        product: Gemm or MatMulNBits; each input but the first has a row, or a block of rows, per logit.
        name: the head's name, for the pieces.
        piece_bytes: the largest size of a piece.
    """
    x, *parts = [value for value in product.inputs if value is not None]
    tensors = [part.const_value for part in parts if isinstance(part.const_value, ir.ExternalTensor)]
    if len(tensors) < len(parts):
        raise GraphError("the head is not a weight of the file; the tracer used to read it as stored")
    V = tensors[0].shape.numpy()[0]
    count = math.ceil(sum(tensor.nbytes for tensor in tensors) / piece_bytes)
    products = []
    for piece, (start, stop) in enumerate(pairwise(V * number // count for number in range(count + 1))):
        label = f"{name}.{piece}" if count > 1 else name
        own = []
        for part, tensor in zip(parts, tensors, strict=True):
            suffix = str(part.name).removeprefix(TIED_NAME).removeprefix(name)
            own.append(_rows(label + suffix, tensor, start, stop))
        attributes = dict(product.attributes)
        if "N" in attributes:
            attributes["N"] = ir.AttrInt64("N", stop - start)
        made = ir.Node(product.domain, product.op_type, [x, *own], attributes=attributes.values(), num_outputs=1)
        products.append(made)  # (N, C), (rows, C) -> (N, rows)
    for part in parts:
        if len(part.uses()) == 1:
            del model.graph.initializers[str(part.name)]
    for made in products:
        for piece_of in made.inputs[1:]:
            model.graph.initializers.add(piece_of)  # type: ignore[arg-type]
    nodes, last = products, products[0]
    if count > 1:
        last = ir.node("Concat", [made.outputs[0] for made in products], {"axis": 1})  # -> (N, V)
        nodes = [*products, last]
    ir.convenience.replace_nodes_and_values(model.graph, product, [product], nodes, product.outputs, last.outputs)


def _rows(name: str, whole: ir.ExternalTensor, start: int, stop: int) -> ir.Value:
    """Some rows of a tensor, as a tensor of its own."""
    V, *rest = whole.shape.numpy()
    row = whole.nbytes // V
    place = Place(
        shape=(stop - start, *rest),
        offset=(whole.offset or 0) + start * row,
        nbytes=(stop - start) * row,
        dtype=next(dtype for dtype, kind in DATA_TYPES.items() if kind == whole.dtype),
    )
    return initializer(name, place, Path(whole.base_dir) / str(whole.location))
