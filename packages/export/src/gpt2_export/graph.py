"""The scratch GPT-2 -> model.onnx: a graph of standard operators whose weights are places in model.safetensors.

The graph is traced from the network's config alone, on tensors without data; the weights join it as references, so that
a model of any size is exported in seconds and nothing is stored twice. The road, in order:

    trace           torch's exporter over `PortableGPT2`: what the graph computes
    refer           each weight becomes a place in the file, in the file's layout: Conv1D's [in, out] is what MatMul
                    wants, so the transposes of torch's Linear go
    optimise        onnxscript's folding of shapes and constants
    label           the names of axes, and nothing of the machine it was made on
    check           the contract: names, types, axes, and the operators that may occur
"""

import logging
import warnings
from collections import Counter
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from gpt2_model import GPT2, GPT2Config, KeyValue
from gpt2_model.weights import TRANSPOSE, from_file_name, stored_name
from onnxscript.optimizer import optimize
from torch import Tensor, nn

from gpt2_export.errors import GraphError
from gpt2_export.tensorfile import Place, places

GRAPH = "model.onnx"
OPSET = 20  # the first with Gelu as one operator, tanh and all; every runtime tried loads 17 to 20
IR_VERSION = 9  # that of onnx 1.15, which brought opset 20

BATCH, SEQUENCE, PAST, TOTAL = "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"

INTEGERS = ("input_ids", "attention_mask", "position_ids")

# Every operator of the graph, whatever the config: standard ones, for which every runtime has a kernel.
OPERATORS = frozenset(
    """
    Add And Cast Concat Constant Equal Expand Flatten Gather Gelu Gemm LayerNormalization LessOrEqual MatMul Mul Not
    Range Relu Reshape Shape Sigmoid Slice Softmax Split Squeeze Sub Transpose Unsqueeze Where
    """.split()  # noqa: SIM905
)


class PortableGPT2(nn.Module):
    """The network with the inputs and outputs that ONNX runtimes agree on: a flat list of past and present tensors."""

    def __init__(self, model: GPT2) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        cache = tuple(KeyValue(key, value) for key, value in zip(past[::2], past[1::2], strict=True))
        logits, presents = self.model(input_ids, cache, attention_mask, position_ids)
        return logits, *(tensor for present in presents for tensor in present)


def export(config: GPT2Config, folder: Path, weights: str) -> None:
    """Writes model.onnx beside the frozen weights in `folder`.

    Args:
        config: of the network to export.
        folder: holds the weights and gets the graph.
        weights: the name of the file of weights.

    Raises:
        FolderError: the weights cannot be read.
        GraphError: the graph is not what it must be; nothing is written.
    """
    model = trace(config)
    refer(model, config, folder, weights)
    model = optimize(model, onnx_shape_inference=False)
    label(model, config)
    check(model, config)
    partial = folder / f".{GRAPH}.partial"
    try:
        ir.save(model, partial)
        onnx.checker.check_model(partial, full_check=True)
        partial.replace(folder / GRAPH)
    finally:
        partial.unlink(missing_ok=True)


def input_names(config: GPT2Config) -> list[str]:
    """In the graph's order."""
    return ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in _layers(config))]


def output_names(config: GPT2Config) -> list[str]:
    """In the graph's order."""
    return ["logits", *(f"present.{name}" for name in _layers(config))]


def load(path: Path) -> onnx.ModelProto:
    """A graph without its weights.

    Raises:
        GraphError: the file is none.
    """
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no base that onnx exports
        raise GraphError(f"{path} is no ONNX graph: {error}; export it again") from error
    if not proto.opset_import:
        raise GraphError(f"{path} is no ONNX graph: it is empty; export it again")
    return proto


def census(proto: onnx.ModelProto) -> dict[str, int]:
    """How often each operator occurs in a graph, most frequent first."""
    return dict(Counter(node.op_type for node in proto.graph.node).most_common())


def trace(config: GPT2Config) -> ir.Model:
    """What torch's exporter makes of the network; the weights have shapes but no data."""
    with torch.device("meta"):
        network = PortableGPT2(GPT2(config)).eval()
        batch, new, past = 2, 3, 5  # any sizes that differ; each becomes an axis of its own
        example = (
            torch.zeros(batch, new, dtype=torch.long),
            torch.zeros(batch, past + new, dtype=torch.long),
            torch.zeros(batch, new, dtype=torch.long),
            [torch.zeros(batch, config.n_head, past, config.head_size) for _ in _layers(config)],
        )
    free = torch.export.Dim.AUTO
    both = {0: free, 1: free}
    with warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")  # the exporter's remarks on itself
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(both, both, both, [{0: free, 2: free} for _ in _layers(config)]),
            input_names=input_names(config),
            output_names=output_names(config),
            optimize=False,  # it would fold the weights' transposes; `refer` comes first
            verbose=False,
        )
    if program is None:
        raise GraphError("torch's exporter returned nothing")
    return program.model


def refer(model: ir.Model, config: GPT2Config, folder: Path, weights: str) -> None:
    """Replaces each weight by its place in the file, in the file's layout."""
    available = places(folder / weights)
    for traced in list(model.graph.initializers.values()):
        traced_shape = tuple(traced.shape or ())
        name = stored_name(_parameter(str(traced.name), config))
        if name not in available:
            raise GraphError(f"the graph needs {name}, which {folder / weights} does not have; freeze the folder again")
        stored = _stored(name, available[name], folder, weights)
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


def axes(name: str, config: GPT2Config) -> list[str | int]:
    """The axes of an input or output, by its name."""
    fixed: dict[str, list[str | int]] = {
        "input_ids": [BATCH, SEQUENCE],
        "attention_mask": [BATCH, TOTAL],
        "position_ids": [BATCH, SEQUENCE],
        "logits": [BATCH, SEQUENCE, config.vocab_size],
    }
    length = PAST if name.startswith("past_key_values.") else TOTAL
    return fixed.get(name, [BATCH, config.n_head, length, config.head_size])


def label(model: ir.Model, config: GPT2Config) -> None:
    """Names the axes; drops the stack traces, which tell of the machine and not of the model."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape(axes(str(value.name), config))
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for output in node.outputs:
            output.metadata_props.clear()
            if not output.is_graph_output():
                output.shape = None  # they have the tracer's own names for axes; runtimes infer what they need
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.name = "gpt2"
    model.producer_name, model.producer_version, model.doc_string = "gpt2-export", None, None
    model.ir_version = IR_VERSION


def check(model: ir.Model, config: GPT2Config) -> None:
    """Holds the graph to its contract.

    Raises:
        GraphError: naming what differs.
    """
    names = [str(value.name) for value in model.graph.inputs], [str(value.name) for value in model.graph.outputs]
    if names != (input_names(config), output_names(config)):
        raise GraphError(f"the graph has inputs {names[0]} and outputs {names[1]}, not those of the contract")
    for value in (*model.graph.inputs, *model.graph.outputs):
        kind = ir.DataType.INT64 if value.name in INTEGERS else ir.DataType.FLOAT
        found = [axis if isinstance(axis, int) else axis.value for axis in value.shape or ()]
        if value.dtype != kind or found != axes(str(value.name), config):
            promised = f"{kind} {axes(str(value.name), config)}"
            raise GraphError(f"{value.name} is {value.dtype} {found}, the contract says {promised}")
    strange = sorted({node.op_type for node in model.graph} - OPERATORS | {n.domain for n in model.graph if n.domain})
    if strange:
        raise GraphError(f"the graph has operators {', '.join(strange)}, which the portable one must not have")
    held = [str(v.name) for v in model.graph.initializers.values() if _weighs(v.const_value)]
    held += [str(n.outputs[0].name) for n in model.graph if n.op_type == "Constant" and _weighs(_constant(n))]
    if held:
        raise GraphError(f"the graph holds weights of its own, {', '.join(held)}; all must be in the file of weights")
    expected = {"Softmax": config.n_layer, "LayerNormalization": 2 * config.n_layer + 1, "MatMul": 6 * config.n_layer}
    counts = Counter(node.op_type for node in model.graph)
    wrong = [f"{counts[name]} {name} instead of {count}" for name, count in expected.items() if counts[name] != count]
    if wrong:
        raise GraphError(f"the graph has {', '.join(wrong)}; a fusion or a folding was lost")


def _constant(node: ir.Node) -> ir.TensorProtocol | None:
    return node.attributes["value"].as_tensor() if "value" in node.attributes else None


def _weighs(tensor: ir.TensorProtocol | None) -> bool:
    """Whether the graph itself would hold so much: shapes and masks have a few numbers, weights have thousands."""
    return tensor is not None and not isinstance(tensor, ir.ExternalTensor) and tensor.size > 16


def _layers(config: GPT2Config) -> list[str]:
    return [f"{layer}.{part}" for layer in range(config.n_layer) for part in ("key", "value")]


def _parameter(traced_name: str, config: GPT2Config) -> str:
    name = traced_name.removeprefix("model.")
    # Of two names for a tied tensor the exporter keeps one; the file has it as the embedding.
    return "wte.weight" if config.tie_word_embeddings and name == "lm_head.weight" else name


def _stored(name: str, place: Place, folder: Path, weights: str) -> ir.Value:
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


class _quiet:  # noqa: N801 (reads as a with-statement)
    """Silences a logger below errors for a while."""

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)
