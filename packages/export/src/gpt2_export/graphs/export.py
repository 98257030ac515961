"""The scratch GPT-2 -> ONNX: the one road on which every kind of graph is made. `portable`, `serving` and
`explaining` are the kinds.

The graph is traced from the network's config alone, on tensors without data; the weights join it as references, so that
a model of any size is exported in seconds and nothing is stored twice. The road, in order:

    trace           torch's exporter over the kind's network: what the graph computes
    refer           each weight becomes a place in the file, in the file's layout: Conv1D's [in, out] is what MatMul
                    wants, so the transposes of torch's Linear go
    optimise        onnxscript's folding of shapes and constants
    fuse            what the kind alone does: the serving graph has fused operators
    apply           a precision beside float32: operators that multiply by fewer bits, and the file that has them
    finish          once more the kind: the serving graph's head is cut into pieces
    label           the names of axes, and nothing of the machine it was made on
    check           the contract: names, types, axes, and the operators that may occur
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

OPSET = 20  # the first with Gelu as one operator, tanh and all; every runtime tried loads 17 to 20
GRAPH_BYTES = 64_000_000  # GPT-2 XL's largest has two million
IR_VERSION = 9  # that of onnx 1.15, which brought opset 20

PRODUCTS = ("MatMul", "Gemm")

Axes = tuple[str | int, ...]


class Spec(NamedTuple):
    """What an input or output is; an axis that varies has a name."""

    type: ir.DataType
    axes: Axes


Specs = dict[str, Spec]
"""By name, in the graph's order."""

Applied = tuple[Precision, Path]
"""A precision, and its file of weights."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of graph: what it computes, and the contract that it is held to.

    Attributes:
        name: under which the manifest lists it.
        file: its name in the folder.
        network: what is traced.
        example: arguments of the network, of any sizes that differ: each varying axis becomes one of its own.
        inputs, outputs: the contract.
        operators: all that may occur.
        op_counts: how often those occur that a fusion or a folding decides about.
        fuse, finish: the kind's own changes, before a precision is applied and after.
        shares_cache: whether its attention writes into the cache it reads, whose type is then the precision's.
        float32_only: whether there is none of another precision.
        refusal: why a network cannot have this graph, or None where it can.
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
    """The first half of the road, which takes seconds and is the same for every precision.

    Args:
        kind: of graph.
        config: of the network to export.
        file: its float32 weights.

    Raises:
        FolderError: the weights cannot be read.
        GraphError: they are not those of the network.
    """
    model = trace(kind, config)
    refer(model, config, file)
    # Without their values: two norms that happen to be equal would become one, and not be so in another precision.
    values = {name: weight.const_value for name, weight in model.graph.initializers.items()}
    for weight in model.graph.initializers.values():
        weight.const_value = None
    with quiet("onnx_ir"):  # which misses them
        model = optimize(model, onnx_shape_inference=False)
    for name, weight in model.graph.initializers.items():
        weight.const_value = values.get(name, weight.const_value)
    kind.fuse(model)
    return model


def finished(base: ir.Model, kind: Kind, config: GPT2Config, applied: Applied | None = None) -> ir.Model:
    """The second half: a graph that is ready to be written.

    Args:
        base: which stays as it is.
        kind: that it is of.
        config: of its network.
        applied: a precision beside float32, and its file of weights.

    Raises:
        GraphError: the graph is not what it must be.
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
    """The whole road, in float32."""
    return finished(base(kind, config, file), kind, config)


def write(model: ir.Model, path: Path, beside: Path | None = None) -> None:
    """Writes a graph whole or not at all.

    Args:
        model: the graph.
        path: where it goes.
        beside: the folder of its weights, where that is another one: ONNX's checker wants to see them.
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
        FolderError: it is no plain file.
        GraphError: it is no graph, or has more bytes than one can have.
    """
    plain_file.refuse_odd(path)
    try:
        if path.stat().st_size > GRAPH_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, a graph has at most {GRAPH_BYTES:,}")
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's errors have no base that onnx exports
        raise GraphError(f"{path} is no ONNX graph: {error}; export it again") from error
    if not proto.opset_import:
        raise GraphError(f"{path} is no ONNX graph: it is empty; export it again")
    return proto


def op_counts(proto: onnx.ModelProto) -> dict[str, int]:
    """How often each operator occurs in a graph, most frequent first."""
    return dict(Counter(node.op_type for node in proto.graph.node).most_common())


def trace(kind: Kind, config: GPT2Config) -> ir.Model:
    """What torch's exporter makes of the kind's network; the weights have shapes but no data."""
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
        warnings.simplefilter("ignore")  # the exporter's remarks on itself
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
    """Names the axes; drops the stack traces, which tell of the machine and not of the model."""
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
                output.shape = None  # they have the tracer's own names for axes; runtimes infer what they need
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.name = "gpt2"
    model.producer_name, model.producer_version, model.doc_string = "gpt2-export", None, None
    model.ir_version = IR_VERSION


def check(model: ir.Model, kind: Kind, config: GPT2Config, precision: Precision | None = None) -> None:
    """Holds the graph to its contract, and to what fusions and foldings must have done.

    Raises:
        GraphError: naming what differs.
    """
    check_contract(model, kind, config, precision)
    counts = Counter(node.op_type for node in model.graph)
    # A precision replaces products, and says itself if one is lost.
    expected: Mapping[str, int] = kind.op_counts(config)
    if precision is not None:
        expected = precision.op_counts(config, {name: n for name, n in expected.items() if name not in PRODUCTS})
    wrong = [f"{counts[name]} {name} instead of {count}" for name, count in expected.items() if counts[name] != count]
    if wrong:
        raise GraphError(f"the graph has {', '.join(wrong)}; a fusion or a folding was lost")


def check_contract(model: ir.Model, kind: Kind, config: GPT2Config, precision: Precision | None = None) -> None:
    """Holds the graph to its inputs, outputs and operators, and to weights that are all in the file.

    Raises:
        GraphError: naming what differs.
    """
    inputs, outputs = kind.specs(config, precision)
    names = [str(value.name) for value in model.graph.inputs], [str(value.name) for value in model.graph.outputs]
    if names != (list(inputs), list(outputs)):
        pairs = (*zip_longest(names[0], inputs), *zip_longest(names[1], outputs))
        found, promise = next(pair for pair in pairs if pair[0] != pair[1])
        told = f"{str(found)[:100]!a} instead of {promise!r}"
        raise GraphError(f"the graph's inputs and outputs are not those of the contract: {told}")
    for value in (*model.graph.inputs, *model.graph.outputs):
        promised = (inputs | outputs)[str(value.name)]
        found = tuple(axis if isinstance(axis, int) else axis.value for axis in value.shape or ())
        if (value.dtype, found) != promised:
            told = f"{value.name} is {value.dtype} {list(found)}"
            raise GraphError(f"{told}, the contract says {promised.type} {list(promised.axes)}")
    operators = kind.operators | (precision.operators if precision else frozenset())
    strange = sorted({operator(node) for node in model.graph} - operators)
    if strange:
        raise GraphError(f"the graph has operators {', '.join(strange)}, which the {kind.name} one must not have")
    held = [str(v.name) for v in model.graph.initializers.values() if _weighs(v.const_value)]
    held += [str(n.outputs[0].name) for n in model.graph if n.op_type == "Constant" and _weighs(_constant(n))]
    if held:
        raise GraphError(f"the graph holds weights of its own, {', '.join(held)}; all must be in the file of weights")


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
    """Whether the graph itself would hold so much: shapes and masks have a few numbers, weights have thousands."""
    return tensor is not None and not isinstance(tensor, ir.ExternalTensor) and tensor.size > 16


class quiet:  # noqa: N801 (reads as a with-statement)
    """Silences a logger below errors for a while."""

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)
