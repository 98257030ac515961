"""Checks a graph's operators and sizes before onnxruntime sees it and before memory is allocated.

The operators are those that gpt2-export writes, by kind and precision; tests/ keep the two tables in step.
"""

from __future__ import annotations

from collections.abc import Mapping

from gpt2_runtime.errors import GraphError, shown
from gpt2_runtime.folder.bundle import Architecture, Bundle
from gpt2_runtime.graphs.onnx_file import OnnxFile

EVERYWHERE = """
    Add Cast Concat Constant Gather Gelu Gemm LayerNormalization MatMul Mul Relu Reshape Sigmoid
"""
STANDARD = f"""
    {EVERYWHERE} LessOrEqual Not Range Shape Softmax Split Squeeze Sub Transpose Unsqueeze Where
"""
OPERATORS = {
    "portable": frozenset(f"{STANDARD} And Equal Expand Flatten Slice".split()),
    "serving": frozenset(
        f"{EVERYWHERE} com.microsoft::BiasGelu com.microsoft::FastGelu com.microsoft::GroupQueryAttention".split()
    ),
    "explaining": frozenset(f"{STANDARD} GatherElements LogSoftmax ReduceLogSumExp TopK".split()),
}
BLOCKS = frozenset(("Sub", "com.microsoft::MatMulNBits"))
OF_PRECISION = {
    "fp32": frozenset[str](),
    "fp16": frozenset(("com.microsoft::SkipLayerNormalization",)),
    "int8": BLOCKS,
    "int4": BLOCKS,
}
DOMAINS = frozenset(("", "com.microsoft"))

# The inputs or outputs to count layers by: their prefix, and how many there are per layer.
LAYERED = {
    "portable": ("inputs", "past_key_values.", 2),
    "serving": ("inputs", "past_key_values.", 2),
    "explaining": ("outputs", "attentions.", 1),
}
POSITIONS = "transformer.wpe.weight"  # [n_positions, n_embd]
EMBEDDINGS = ("transformer.wte.weight", "transformer.wte.weight.blocks")  # [vocab_size, ...]


def check_operators(where: str, graph: OnnxFile, kind: str, precision: str) -> None:
    """Raises a GraphError starting with `where` for operators that gpt2-export never writes into such a graph."""
    domains = sorted(graph.domains - DOMAINS)
    if domains:
        problem = ", ".join(map(shown, domains[:4]))
        raise GraphError(
            f"{where} uses operator domain {problem}, must be ONNX's or com.microsoft; export the folder again"
        )
    unexpected = sorted(graph.operators - OPERATORS[kind] - OF_PRECISION[precision])
    if unexpected:
        names = ", ".join(map(shown, unexpected[:4]))
        more = f" and {len(unexpected) - 4} more" if len(unexpected) > 4 else ""
        raise GraphError(
            f"{where} has operators {names}{more}, which no {precision} {kind} graph has; export the folder again"
        )


def check_sizes(where: str, graph: OnnxFile, kind: str, bundle: Bundle) -> None:
    """Raises GraphError unless the sizes in config.json match the graph and its weights, before anything uses them."""
    sizes, config = bundle.architecture, bundle.folder / "config.json"
    side, prefix, parts = LAYERED[kind]
    layers = sum(spec.name.startswith(prefix) for spec in getattr(graph.signature, side)) / parts
    if layers != sizes.n_layer:
        _differs(f"{config}: n_layer is {sizes.n_layer}, {where} has {layers:g} layers")
    shapes = {name: initializer.shape for name, initializer in graph.initializers.items()}
    positions = shapes.get(POSITIONS)
    if positions != (sizes.n_positions, sizes.n_embd):
        expected = f"[n_positions, n_embd] is [{sizes.n_positions}, {sizes.n_embd}]"
        _differs(f"{config}: {expected}, {POSITIONS} of {where} {_axes(positions)}")
    _check_vocabulary(f"{config}: vocab_size is {sizes.vocab_size}", where, shapes, sizes)


def _check_vocabulary(problem: str, where: str, shapes: Mapping[str, tuple[int, ...]], sizes: Architecture) -> None:
    present = [name for name in EMBEDDINGS if name in shapes]
    for name in present or EMBEDDINGS[:1]:
        shape = shapes.get(name)
        if not shape or shape[0] != sizes.vocab_size:
            _differs(f"{problem}, {name} of {where} {_axes(shape)}")


def _axes(shape: tuple[int, ...] | None) -> str:
    return "is missing" if shape is None else f"is {list(shape)}"


def _differs(problem: str) -> None:
    raise GraphError(f"{problem}; the folder is damaged or was edited; export it again")
