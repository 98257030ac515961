"""The scratch GPT-2 -> ONNX: the one pipeline that makes every kind of graph: `portable`, `serving` and `explaining`.

The graph is traced from the network's config alone, on tensors without data; the weights are added as references, so
that a model of any size exports in seconds and nothing is stored twice. The steps, in order:

    trace           torch's exporter on the kind's network
    refer           each weight becomes a reference into the file, in the file's layout: Conv1D's [in, out] is what
                    MatMul needs, so the transposes of torch's Linear are removed
    optimise        onnxscript's folding of shapes and constants
    fuse            the kind's own step: the serving graph has fused operators
    apply           a precision other than float32: its operators, and its weights file
    finish          the kind's last step: the serving graph's head is cut into pieces
    label           names the axes, and removes every trace of the machine
    check           checks the contract: names, types, axes, and allowed operators
"""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnx_ir as ir
import torch
from gpt2_model import GPT2Config
from gpt2_model.compiler import no_compiler_folder
from onnxscript.optimizer import optimize
from torch import nn

from gpt2_export import plain_file, temporary
from gpt2_export.errors import GraphError
from gpt2_export.precision.precision import Precision
from gpt2_export.weights.initializers import refer

OPSET = 20  # the first with Gelu (tanh too) as one operator; every runtime tested loads 17 to 20
GRAPH_BYTES = 64_000_000  # GPT-2 XL's largest has two million
IR_VERSION = 9  # of onnx 1.15, which introduced opset 20

PRODUCTS = ("MatMul", "Gemm")

Axes = tuple[str | int, ...]


class Spec(NamedTuple):
    """The type and axes of an input or output; a varying axis has a name."""

    type: ir.DataType
    axes: Axes


Specs = dict[str, Spec]
"""By name, in the graph's order."""

Applied = tuple[Precision, Path]
"""A precision and its weights file."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of graph: its network and its contract.

    Attributes:
        name: its name in the manifest.
        file: its file name in the folder.
        network: the module to trace.
        example: arguments of the network, whose sizes must all differ: each varying axis becomes its own.
        inputs, outputs: the contract.
        operators: all operators that may occur.
        op_counts: the counts of the operators that fusions or foldings change.
        fuse, finish: the kind's own changes, before and after a precision is applied.
        shares_cache: whether attention writes into the cache it reads, whose dtype is then the precision's.
        float32_only: whether it exists only in float32.
        refusal: why a network cannot have this graph, or None if it can.
    """

    name: str
    file: str
    network: Callable[[GPT2Config], nn.Module]
    example: Callable[[GPT2Config], tuple[Any, ...]]
    inputs: Callable[[GPT2Config], Specs]
    outputs: Callable[[GPT2Config], Specs]
    operators: frozenset[str]
    op_counts: Callable[[GPT2Config], dict[str, int]]
    fuse: Callable[[ir.Model], None] = lambda model: None
    finish: Callable[[ir.Model], None] = lambda model: None
    refusal: Callable[[GPT2Config], str | None] = lambda config: None
    shares_cache: bool = False
    float32_only: bool = False

    def specs(self, config: GPT2Config, precision: Precision | None) -> tuple[Specs, Specs]:
        """Inputs and outputs, in a precision."""
        cache = precision.cache if precision is not None and self.shares_cache else ir.DataType.FLOAT

        def typed(specs: Specs) -> Specs:
            return {n: Spec(cache, s.axes) if n.startswith(("past_", "present.")) else s for n, s in specs.items()}

        return typed(self.inputs(config)), typed(self.outputs(config))


def base(kind: Kind, config: GPT2Config, file: Path) -> ir.Model:
    """The first half of the pipeline, which takes seconds and is the same for every precision.

    Args:
        kind: the kind of graph.
        config: of the network to export.
        file: its float32 weights.

    Raises:
        FolderError: the weights cannot be read.
        GraphError: the weights do not fit the network.
    """
    model = trace(kind, config)
    refer(model, config, file)
    # Without values: two norms that happen to be equal would be merged, and may differ in another precision.
    values = {name: weight.const_value for name, weight in model.graph.initializers.items()}
    for weight in model.graph.initializers.values():
        weight.const_value = None
    with quiet("onnx_ir"):  # it warns about the missing values
        model = optimize(model, onnx_shape_inference=False)
    for name, weight in model.graph.initializers.items():
        weight.const_value = values.get(name, weight.const_value)
    kind.fuse(model)
    return model


def finished(base: ir.Model, kind: Kind, config: GPT2Config, applied: Applied | None = None) -> ir.Model:
    """The second half: a graph ready to write.

    Args:
        base: the first half; not changed.
        kind: its kind.
        config: of its network.
        applied: a precision other than float32, and its weights file.

    Raises:
        GraphError: the graph breaks its contract.
    """
    model = base.clone()
    precision = None
    if applied is not None:
        precision, weights = applied
        precision.apply(model, config, weights)
    kind.finish(model)
    label(model, kind, config)
    check(model, kind, config, precision)
    return model


def build(kind: Kind, config: GPT2Config, file: Path) -> ir.Model:
    """The whole pipeline, in float32."""
    return finished(base(kind, config, file), kind, config)


def write(model: ir.Model, path: Path, beside: Path | None = None) -> None:
    """Writes a graph atomically.

    Args:
        model: the graph.
        path: where to write it.
        beside: the folder of its weights, if another: ONNX's checker reads them.
    """
    partial = (beside or path.parent) / temporary.new_name()
    try:
        ir.save(model, partial)
        onnx.checker.check_model(partial, full_check=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path) -> onnx.ModelProto:
    """A graph without its weights.

    Raises:
        FolderError: it is not a plain file.
        GraphError: it is not a graph, or is too large to be one.
    """
    plain_file.refuse_odd(path)
    try:
        if path.stat().st_size > GRAPH_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, a graph has at most {GRAPH_BYTES:,}")
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no base class that onnx exports
        raise GraphError(f"{path} is not an ONNX graph: {error}; export it again") from error
    if not proto.opset_import:
        raise GraphError(f"{path} is not an ONNX graph: it is empty; export it again")
    return proto


def op_counts(proto: onnx.ModelProto) -> dict[str, int]:
    """The number of each operator in a graph, most frequent first."""
    return dict(Counter(node.op_type for node in proto.graph.node).most_common())


def trace(kind: Kind, config: GPT2Config) -> ir.Model:
    """The kind's network through torch's exporter; the weights have shapes but no data."""
    with no_compiler_folder(), torch.device("meta"):
        network = kind.network(config).eval()
        example = kind.example(config)
    inputs = kind.inputs(config)
    free = [
        {axis: torch.export.Dim.AUTO for axis, name in enumerate(spec.axes) if isinstance(name, str)}
        for spec in inputs.values()
    ]
    arguments = len(example) - isinstance(example[-1], list)  # the last one may be the list of all past tensors
    with warnings.catch_warnings(), quiet("torch.onnx"), no_compiler_folder():
        warnings.simplefilter("ignore")  # the exporter warns about itself
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(*free[:arguments], *([free[arguments:]] if free[arguments:] else [])),
            input_names=list(inputs),
            output_names=list(kind.outputs(config)),
            optimize=False,  # it would fold the weights' transposes; `refer` comes first
            verbose=False,
        )
    if program is None:
        raise GraphError("torch's exporter returned nothing")
    return program.model


def label(model: ir.Model, kind: Kind, config: GPT2Config) -> None:
    """Names the axes; drops the stack traces, which describe the machine and not the model."""
    specs = kind.inputs(config) | kind.outputs(config)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name in specs:
            value.shape = ir.Shape(specs[value.name].axes)
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for output in node.outputs:
            output.metadata_props.clear()
            if not output.is_graph_output():
                output.shape = None  # these have the tracer's axis names; runtimes infer the shapes
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.name = "gpt2"
    model.producer_name, model.producer_version, model.doc_string = "gpt2-export", None, None
    model.ir_version = IR_VERSION


def check(model: ir.Model, kind: Kind, config: GPT2Config, precision: Precision | None = None) -> None:
    """Checks the graph against its contract and the expected fusions and foldings.

    Raises:
        GraphError: naming what differs.
    """
    check_contract(model, kind, config, precision)
    counts = Counter(node.op_type for node in model.graph)
    # A precision replaces products, and checks for lost ones itself.
    expected: Mapping[str, int] = kind.op_counts(config)
    if precision is not None:
        expected = precision.op_counts(config, {name: n for name, n in expected.items() if name not in PRODUCTS})
    wrong = [f"{counts[name]} {name} instead of {count}" for name, count in expected.items() if counts[name] != count]
    if wrong:
        raise GraphError(f"the graph has {', '.join(wrong)}; a fusion or a folding was lost")


def check_contract(model: ir.Model, kind: Kind, config: GPT2Config, precision: Precision | None = None) -> None:
    """Checks the graph's inputs, outputs and operators, and that all its weights are in the file.

    Raises:
        GraphError: naming what differs.
    """
    inputs, outputs = kind.specs(config, precision)
    names = [str(value.name) for value in model.graph.inputs], [str(value.name) for value in model.graph.outputs]
    if names != (list(inputs), list(outputs)):
        pairs = (*zip_longest(names[0], inputs), *zip_longest(names[1], outputs))
        actual, promise = next(pair for pair in pairs if pair[0] != pair[1])
        detail = f"{str(actual)[:100]!a} instead of {promise!r}"
        raise GraphError(f"the graph's inputs and outputs are not those of the contract: {detail}")
    for value in (*model.graph.inputs, *model.graph.outputs):
        promised = (inputs | outputs)[str(value.name)]
        actual = tuple(axis if isinstance(axis, int) else axis.value for axis in value.shape or ())
        if (value.dtype, actual) != promised:
            detail = f"{value.name} is {value.dtype} {list(actual)}"
            raise GraphError(f"{detail}, the contract says {promised.type} {list(promised.axes)}")
    operators = kind.operators | (precision.operators if precision else frozenset())
    strange = sorted({operator(node) for node in model.graph} - operators)
    if strange:
        raise GraphError(f"the graph has operators {', '.join(strange)}, which the {kind.name} graph must not have")
    own = [str(v.name) for v in model.graph.initializers.values() if _weighs(v.const_value)]
    own += [str(n.outputs[0].name) for n in model.graph if n.op_type == "Constant" and _weighs(_constant(n))]
    if own:
        raise GraphError(f"the graph holds weights of its own, {', '.join(own)}; all must be in the weights file")


def operator(node: ir.Node) -> str:
    """`Add` of ONNX itself, `com.microsoft::FastGelu` of another domain."""
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def layers(prefix: str, config: GPT2Config, axes: Axes) -> Specs:
    """The keys and values of each layer."""
    names = [f"{prefix}.{layer}.{part}" for layer in range(config.n_layer) for part in ("key", "value")]
    return {name: Spec(ir.DataType.FLOAT, axes) for name in names}


def _constant(node: ir.Node) -> ir.TensorProtocol | None:
    return node.attributes["value"].as_tensor() if "value" in node.attributes else None


def _weighs(tensor: ir.TensorProtocol | None) -> bool:
    """Whether a tensor is a weight by its size: shapes and masks have a few numbers, weights have thousands."""
    return tensor is not None and not isinstance(tensor, ir.ExternalTensor) and tensor.size > 16


class quiet:  # noqa: N801 (reads as a with-statement)
    """Silences a logger below errors inside the block."""

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)
