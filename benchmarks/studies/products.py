"""The operators that could do a product of GPT-2 124M, each alone in a graph: microseconds, for several rows.

    python benchmarks/studies/products.py

The product is that of the MLP's second matrix, [rows, 3072] by [3072, 768]. Requires onnx, onnxruntime and gpt2-export,
whose blocks it uses. `of rows` is the dynamic quantisation in which tokens do not change each other: one scale per row,
an integer product, and the scales afterwards.
"""

from statistics import median
from time import perf_counter, sleep

import numpy as np
import onnx
from gpt2_export.precision import blocks
from gpt2_export.telemetry import load_onnxruntime
from onnx import TensorProto, helper, numpy_helper

onnxruntime = load_onnxruntime()

K, N = 3072, 768
ROWS = (1, 8, 32, 256)
ROUNDS = 7
PAUSE = 0.03  # until the other sessions' spinning threads are asleep

Tensors = dict[str, np.ndarray]
Graph = tuple[list[onnx.NodeProto], Tensors]


def in_float32(weight: np.ndarray) -> Graph:
    return [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ascontiguousarray(weight.T)}


def in_blocks(weight: np.ndarray, *, bits: int, block: int, accuracy: int = 4) -> Graph:
    made, scales = blocks.quantize(weight, bits=bits, block=block)
    attributes = {"K": K, "N": N, "bits": bits, "block_size": block, "accuracy_level": accuracy}
    node = helper.make_node("MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", **attributes)
    return [node], {"b": made, "s": scales}


def integers(weight: np.ndarray) -> Tensors:
    """A scale for each output."""
    scales = np.abs(weight).max(axis=1) / np.float32(127)
    return {"w": np.ascontiguousarray(np.rint(weight / scales[:, None]).astype(np.int8).T), "s": scales}


def dynamic(weight: np.ndarray) -> Graph:
    """One scale for all rows: tokens change each other."""
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], domain="com.microsoft")
    return [node], integers(weight)


def dynamic_by_row(weight: np.ndarray) -> Graph:
    nodes = [
        helper.make_node("Abs", ["x"], ["size"]),
        helper.make_node("ReduceMax", ["size", "last"], ["largest"], keepdims=1),
        helper.make_node("Mul", ["largest", "step"], ["scale"]),
        helper.make_node("Div", ["x", "scale"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Add", ["rounded", "middle"], ["moved"]),
        helper.make_node("Cast", ["moved"], ["levels"], to=TensorProto.UINT8),
        helper.make_node(
            "MatMulIntegerToFloat", ["levels", "w", "one", "s", "zero"], ["product"], domain="com.microsoft"
        ),
        helper.make_node("Mul", ["product", "scale"], ["y"]),
    ]
    constants: Tensors = {
        "last": np.array([1]),
        "step": np.array(1 / 127, np.float32),
        "middle": np.array(128, np.float32),
        "one": np.array(1, np.float32),
        "zero": np.array(128, np.uint8),
    }
    return nodes, constants | integers(weight)


WAYS = {
    "float32": in_float32,
    **{
        f"{bits} bits by {block}": lambda weight, bits=bits, block=block: in_blocks(weight, bits=bits, block=block)
        for bits in (8, 4)
        for block in (32, 64, 128, 256)
    },
    "8 bits by 64, accuracy level 1": lambda weight: in_blocks(weight, bits=8, block=64, accuracy=1),
    "4 bits by 64, accuracy level 1": lambda weight: in_blocks(weight, bits=4, block=64, accuracy=1),
    "dynamic int8, one scale": dynamic,
    "dynamic int8, of rows": dynamic_by_row,
}


def opened(graph: Graph) -> onnxruntime.InferenceSession:
    nodes, tensors = graph
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", K])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", N])]
    made = helper.make_graph(
        nodes, "product", inputs, outputs, [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    model = helper.make_model(made, opset_imports=opsets, ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """The command."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((N, K)) * 0.02).astype(np.float32)
    sessions = {name: opened(make(weight)) for name, make in WAYS.items()}
    times: dict[tuple[str, int], list[float]] = {(name, rows): [] for name in WAYS for rows in ROWS}
    x = {rows: rng.standard_normal((rows, K)).astype(np.float32) for rows in ROWS}
    for number in range(ROUNDS + 1):
        for (name, rows), seconds in times.items():
            sleep(PAUSE)
            sessions[name].run(None, {"x": x[rows]})
            repeats = max(2, 64 // rows)
            start = perf_counter()
            for _ in range(repeats):
                sessions[name].run(None, {"x": x[rows]})
            if number:  # the first round warms up
                seconds.append((perf_counter() - start) / repeats)
    print(f"{'':<34}" + "".join(f"{rows:>9}" for rows in ROWS))
    for name in WAYS:
        print(f"{name:<34}" + "".join(f"{1e6 * median(times[name, rows]):>9.0f}" for rows in ROWS))


if __name__ == "__main__":
    main()
