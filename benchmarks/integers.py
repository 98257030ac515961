"""What a second graph for many rows would bring and cost: products of integers, one scale for each row.

    python benchmarks/integers.py FOLDER
    python benchmarks/integers.py FOLDER --precision int4 --rounds 9

It needs gpt2-export and gpt2-runtime. The layers' matrices of the precision's serving graph are multiplied as integers:
each token is rounded to 8 bits by a scale of its own, so that tokens do not change each other; each output of a matrix
has one scale. A number is how many times as long a work takes then, the median over rounds of the ratio within a round,
and KL is that of each graph to float32.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx_ir as ir
from gpt2_export.verification.metrics import kl
from gpt2_export.weights.safetensors_file import places, read
from gpt2_model.weights import TRANSPOSE, map_tensor_name
from gpt2_runtime import Bundle, Session
from gpt2_runtime.engine.packed_session import PackedSession
from gpt2_runtime.engine.serving_graph import ServingGraph
from variants import BASE, MEASURED, WAYS, compare, opened, timed

LEVELS = 127
MIDDLE = 128  # of unsigned 8 bits, for which onnxruntime has the faster kernels
TOKENS = 256  # of which KL is taken


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", choices=["int8", "int4"], default="int8", help="(default: int8)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
    options = parser.parse_args()
    bundle = Bundle.open(options.folder)
    path = bundle.graph(options.precision, "serving")
    inference = WAYS[BASE].session(integers(path, options.folder / bundle.weights["fp32"]), bundle, options.threads)
    graph = ServingGraph(engine=PackedSession(lambda packed: inference, [], packed=True), sizes=bundle.architecture)
    exact = Session.open(bundle, precision="fp32", threads=options.threads).opened
    blocks = Session.open(bundle, precision=options.precision, threads=options.threads).opened
    ids = [np.random.default_rng(0).integers(bundle.architecture.vocab_size, size=TOKENS)]
    before, after, other = (
        kind.step(ids, kind.empty_cache(1, TOKENS), TOKENS)[0][0] for kind in (exact, blocks, graph)
    )
    print(f"KL to fp32: {kl(before, after).mean():.1e} as it is, {kl(before, other).mean():.1e} by integers")
    ratios = compare(opened(bundle, BASE, options.precision, options.threads), timed(graph, bundle), options.rounds)
    print("".join(f"{name:>10}" for name in MEASURED))
    print("".join(f"{ratios[name]:>10.2f}" for name in MEASURED))


def integers(path: Path, weights: Path) -> bytes:
    """The serving graph with its layers' matrices multiplied as integers."""
    model = ir.load(path)
    found = places(weights)
    graph = model.graph
    for node in [node for node in graph if node.op_type == "MatMulNBits"]:
        name = str(node.inputs[1].name).removesuffix(".blocks")
        if map_tensor_name(name)[1] != TRANSPOSE:  # the head, which reads one row of a prompt
            continue
        weight = read(weights, found[name])  # [in, out]
        scales = np.abs(weight).max(axis=0) / np.float32(LEVELS)
        levels = np.rint(weight / scales).astype(np.int8)
        made = by_rows(node, levels, scales)
        ir.convenience.replace_nodes_and_values(graph, node, [node], made, node.outputs, made[-1].outputs)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    return ir.to_proto(model).SerializeToString()


def by_rows(node: ir.Node, levels: np.ndarray, scales: np.ndarray) -> list[ir.Node]:
    """The product of `node` as integers: x [T, K] by levels [K, N], a scale for each row of x and each column."""
    made: list[ir.Node] = []

    def add(kind: str, *inputs: ir.Value, domain: str = "", **attributes: object) -> ir.Value:
        made.append(ir.node(kind, inputs, attributes, domain=domain))
        return made[-1].outputs[0]

    def constant(array: np.ndarray) -> ir.Value:
        return add("Constant", value=ir.tensor(array))

    (x, *_) = node.inputs
    largest = add("ReduceMax", add("Abs", x), constant(np.array([-1])), keepdims=1)
    scale = add("Mul", largest, constant(np.array(1 / LEVELS, np.float32)))  # (B, T, 1)
    moved = add("Add", add("Round", add("Div", x, scale)), constant(np.array(MIDDLE, np.float32)))
    rounded = add("Cast", moved, to=ir.DataType.UINT8)
    one, middle = constant(np.array(1, np.float32)), constant(np.array(MIDDLE, np.uint8))
    operands = rounded, constant(levels), one, constant(scales), middle
    add("Mul", add("MatMulIntegerToFloat", *operands, domain="com.microsoft"), scale)
    return made


if __name__ == "__main__":
    main()
