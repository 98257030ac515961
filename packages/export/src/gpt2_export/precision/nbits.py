"""int8 and int4: matrices in blocks, multiplied by MatMulNBits; everything else stays float32.

Only weights are stored in fewer bits. While multiplying, onnxruntime rounds activations to 8 bits, one block of one
token at a time, so a token's result does not depend on the other tokens of the chunk or batch.

    NAME.blocks, NAME.scales    for each matrix (see `blocks.py`), and for the embedding, which the tied head shares
    NAME                        norms, biases, position embedding, and matrices that are kept: float32
    NAME.channels               [C] factors of a looked-up row, if the tied head has absorbed part of a norm
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
from gpt2_model import GPT2Config
from gpt2_model.weights import TRANSPOSE, map_tensor_name, stored_name

from gpt2_export.errors import GraphError, PrecisionError
from gpt2_export.precision import smoothing
from gpt2_export.precision.blocks import SMALLEST, dequantize, fitting, quantize
from gpt2_export.weights.initializers import initializer
from gpt2_export.weights.safetensors_file import DTYPES, Form, places, read

ACCURACY_LEVEL = 4  # activations in 8 bits; without it onnxruntime 1.32 takes many times as long
HEAD_BITS = 8  # of the embedding too: a 4-bit head would lose more than all other matrices gain
NORMS = {"ln_1": "attn.c_attn", "ln_2": "mlp.c_fc"}  # a layer's norms, and the matrix that reads each
OPERATORS = frozenset(("Cast", "Gather", "Mul", "Reshape", "Sub", "com.microsoft::MatMulNBits"))

Array = Callable[[], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class BlockSizes:
    """How the matrices of a network are stored.

    Attributes:
        bits: of a layer's matrices.
        attention, mlp, head: the largest block size in each; the actual one must divide the rows.
    """

    bits: int
    attention: int
    mlp: int
    head: int

    def block(self, parameter: str, width: int) -> int:
        """A matrix's block size; PrecisionError if none divides its rows of `width` numbers."""
        largest = self.head if not parameter.startswith("h.") else self.attention if ".attn." in parameter else self.mlp
        block = fitting(width, largest)
        if block is None:
            raise PrecisionError(
                f"{parameter} has rows of {width} numbers, not a multiple of {SMALLEST}; keep it float32"
            )
        return block


def refusal(config: GPT2Config) -> str | None:
    """Why a network cannot be stored this way, or None if it can."""
    for name, width in (("n_embd", config.n_embd), ("n_inner", config.inner_size)):
        if fitting(width, SMALLEST) is None:
            return f"{name} is {width}, not a multiple of {SMALLEST}, the smallest block of MatMulNBits"
    return None


def is_matrix(parameter: str) -> bool:
    """Whether a parameter is a matrix to multiply by: a layer's, the embedding or the head.

    >>> is_matrix("h.0.attn.c_attn.weight"), is_matrix("wte.weight"), is_matrix("h.0.ln_1.weight")
    (True, True, False)
    """
    return map_tensor_name(parameter)[1] == TRANSPOSE or parameter in ("wte.weight", "lm_head.weight")


def tensors(
    sizes: BlockSizes, config: GPT2Config, source: Path, keep: Collection[str]
) -> tuple[dict[str, Form], Iterator[np.ndarray]]:
    """The content of the weights file: each tensor's form, and the tensors in order.

    Args:
        sizes: the block sizes of matrices.
        config: of the network.
        source: the frozen float32 weights.
        keep: parameters that stay float32.
    """
    forms: dict[str, Form] = {}
    made: list[Callable[[], tuple[np.ndarray, ...]]] = []
    for name, weight in _smoothed(config, source, keep).items():
        parameter, action = map_tensor_name(name)
        shape = weight().shape
        if not is_matrix(parameter) or parameter in keep:
            forms[name] = Form(shape)
            made.append(partial(_whole, weight))
            continue
        turned = action == TRANSPOSE
        N, K = shape[::-1] if turned else shape
        bits = sizes.bits if parameter.startswith("h.") else HEAD_BITS
        block = sizes.block(parameter, K)
        forms[f"{name}.blocks"] = Form((N, K // block, block * bits // 8), "U8")
        forms[f"{name}.scales"] = Form((N, K // block))
        made.append(partial(_in_blocks, weight, turned=turned, bits=bits, block=block))
    return forms, (array for make in made for array in make())


def dequantized(sizes: BlockSizes, parameter: str, weight: np.ndarray) -> np.ndarray:
    """A matrix [out, in] after quantization."""
    bits = sizes.bits if parameter.startswith("h.") else HEAD_BITS
    blocks, scales = quantize(weight, bits=bits, block=sizes.block(parameter, weight.shape[1]))
    return dequantize(blocks, scales, bits=bits)


def convert(model: ir.Model, config: GPT2Config, file: Path) -> None:
    """Replaces each node that reads a matrix with one that reads its blocks.

    Args:
        model: a graph over the float32 weights.
        config: of the network.
        file: the one written from `tensors`.
    """
    places_of = places(file, tuple(DTYPES))
    graph = model.graph

    def value(name: str, *, alias: str = "", shape: tuple[int, ...] | None = None) -> ir.Value:
        named = alias or name
        if named not in graph.initializers:
            graph.initializers.add(initializer(named, places_of[name], file, shape))
        return graph.initializers[named]

    for node in list(graph):
        name = next((str(v.name) for v in node.inputs if v is not None and f"{v.name}.blocks" in places_of), None)
        if name is None:
            continue
        blocks, form = value(f"{name}.blocks"), places_of[f"{name}.blocks"].shape
        if node.op_type == "Gather":
            # The same place under a second name: the scales shaped to multiply a row of blocks.
            scales = value(f"{name}.scales", alias=f"{name}.scales.rows", shape=(*form[:2], 1))
            made = _look_up(node, blocks, scales, config.n_embd)
            if f"{name}.channels" in places_of:
                made.append(ir.node("Mul", [made[-1].outputs[0], value(f"{name}.channels")]))
        elif node.op_type in ("MatMul", "Gemm"):
            width = config.inner_size if map_tensor_name(name)[0].endswith("mlp.c_proj.weight") else config.n_embd
            made = [_multiply(node, blocks, value(f"{name}.scales"), form, width)]
        else:
            raise GraphError(f"cannot quantize {name}: unsupported consumer {node.op_type}")
        ir.convenience.replace_nodes_and_values(graph, node, [node], made, node.outputs, made[-1].outputs)
    model.opset_imports.setdefault("com.microsoft", 1)
    lost = [name for name in places_of if name.endswith(".blocks") and name not in graph.initializers]
    if lost:
        raise GraphError(f"{', '.join(lost)} of {file} are not read; the tracer used to multiply by them")


def _look_up(node: ir.Node, blocks: ir.Value, scales: ir.Value, width: int) -> list[ir.Node]:
    """`Gather(embedding, ids)` from standard operators: levels times scales of the requested rows."""
    ids = node.inputs[1]
    levels = ir.node("Gather", [blocks, ids])  # (B, T) -> (B, T, C / block, block)
    cast = ir.node("Cast", [levels.outputs[0]], {"to": ir.DataType.FLOAT})
    middle = ir.node("Constant", [], {"value": ir.tensor(np.array(1 << (HEAD_BITS - 1), np.float32))})
    centred = ir.node("Sub", [cast.outputs[0], middle.outputs[0]])
    scale = ir.node("Gather", [scales, ids])  # (B, T) -> (B, T, C / block, 1)
    scaled = ir.node("Mul", [centred.outputs[0], scale.outputs[0]])
    shape = ir.node("Constant", [], {"value": ir.tensor(np.array([0, 0, width], np.int64))})  # 0: unchanged
    row = ir.node("Reshape", [scaled.outputs[0], shape.outputs[0]])  # -> (B, T, C)
    return [levels, cast, middle, centred, scale, scaled, shape, row]


def _multiply(node: ir.Node, blocks: ir.Value, scales: ir.Value, form: tuple[int, ...], width: int) -> ir.Node:
    """`MatMul(x, weight)`, or `Gemm(x, weight)` for a transposed weight."""
    N, count, size = form
    attributes = {
        "K": width,
        "N": N,
        "bits": 8 * count * size // width,
        "block_size": width // count,
        "accuracy_level": ACCURACY_LEVEL,
    }
    return ir.node("MatMulNBits", [node.inputs[0], blocks, scales], attributes, domain="com.microsoft")


def _smoothed(config: GPT2Config, source: Path, keep: Collection[str]) -> dict[str, Array]:
    """Every float32 tensor of the network, norms and their readers rescaled; each is read when called."""
    places_of = places(source)
    arrays: dict[str, Array] = {name: partial(read, source, place) for name, place in places_of.items()}
    head = "wte.weight" if config.tie_word_embeddings else "lm_head.weight"
    layers = range(config.n_layer)
    readers = {f"h.{n}.{norm}": f"h.{n}.{reader}.weight" for n in layers for norm, reader in NORMS.items()}
    for norm, reader in (readers | {"ln_f": head}).items():
        if reader in keep:
            continue
        weight, bias, matrix = (stored_name(name) for name in (f"{norm}.weight", f"{norm}.bias", reader))
        turned = map_tensor_name(matrix)[1] == TRANSPOSE
        inputs_first = arrays[matrix]() if turned else arrays[matrix]().T
        factors = smoothing.factors(arrays[weight](), arrays[bias](), inputs_first)
        if (factors == 1).all():
            continue
        for name in (weight, bias):
            arrays[name] = partial(_times, arrays[name], 1 / factors)
        arrays[matrix] = partial(_times, arrays[matrix], factors[:, None] if turned else factors)
        if reader == "wte.weight":
            arrays[f"{matrix}.channels"] = partial(np.asarray, 1 / factors)
    return arrays


def _times(array: Array, factors: np.ndarray) -> np.ndarray:
    return np.asarray(array() * factors)


def _whole(weight: Array) -> tuple[np.ndarray]:
    return (weight(),)


def _in_blocks(weight: Array, *, turned: bool, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    matrix = weight().T if turned else weight()
    return quantize(matrix, bits=bits, block=block)
