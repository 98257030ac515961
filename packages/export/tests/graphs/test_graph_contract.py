"""`export.check` accepts only graphs that meet the contract."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from gpt2_export.errors import GraphError
from gpt2_export.graphs import export
from gpt2_export.graphs.explain import EXPLAIN
from gpt2_export.graphs.export import Kind
from gpt2_export.graphs.portable import PORTABLE
from gpt2_export.graphs.serving import SERVING
from gpt2_model import GPT2, GPT2Config


@pytest.fixture(scope="module")
def config(made: Path) -> GPT2Config:
    return GPT2.from_pretrained(made).config


@pytest.fixture(scope="module")
def read(made: Path, kind: Kind) -> ir.Model:
    return ir.load(made / kind.file)


@pytest.fixture
def exported(read: ir.Model) -> ir.Model:
    return read.clone()


def first(model: ir.Model, operator: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == operator)


def test_the_made_graph_passes(exported: ir.Model, kind: Kind, config: GPT2Config) -> None:
    export.check(exported, kind, config)


def operator_of_another_domain(model: ir.Model) -> None:
    first(model, "Gather").domain = "com.example"


def unknown_operator(model: ir.Model) -> None:
    first(model, "Gather").op_type = "Einsum"


def input_of_another_name(model: ir.Model) -> None:
    model.graph.inputs[0].name = "ids"


def output_of_another_name(model: ir.Model) -> None:
    model.graph.outputs[1].name = "present_0"


def one_input_more(model: ir.Model) -> None:
    model.graph.inputs.append(ir.Value(name="use_cache_branch", type=ir.TensorType(ir.DataType.BOOL)))


def inputs_in_another_order(model: ir.Model) -> None:
    model.graph.inputs.insert(0, model.graph.inputs.pop())


def input_of_another_type(model: ir.Model) -> None:
    model.graph.inputs[0].type = ir.TensorType(ir.DataType.INT32)


def batch_of_another_name(model: ir.Model) -> None:
    model.graph.inputs[0].shape = ir.Shape(["batch", "sequence_length"])


def fixed_batch(model: ir.Model) -> None:
    axes = list(model.graph.outputs[-1].shape or ())
    model.graph.outputs[-1].shape = ir.Shape([1, *axes[1:]])


def inlined_weight(model: ir.Model) -> None:
    value = model.graph.initializers["transformer.wpe.weight"]
    value.const_value = ir.tensor(np.zeros((24, 16), np.float32), name=value.name)


def weight_in_a_constant(model: ir.Model) -> None:
    constant = ir.node("Constant", [], {"value": ir.tensor(np.zeros((24, 16), np.float32))})
    model.graph.insert_before(model.graph[0], constant)
    ir.convenience.replace_all_uses_with(model.graph.initializers["transformer.wpe.weight"], constant.outputs[0])


def lost_normalisation(model: ir.Model) -> None:
    norm = first(model, "LayerNormalization")
    (x,) = (value for value in norm.inputs[:1] if value is not None)
    ir.convenience.replace_all_uses_with(norm.outputs[0], x)
    model.graph.remove(norm, safe=True)


def extra_product(model: ir.Model) -> None:
    value = first(model, "MatMul").inputs[0]
    model.graph.insert_after(first(model, "MatMul"), ir.node("MatMul", [value, value]))


def contrib_gelu(model: ir.Model) -> None:
    first(model, "Gelu").domain = "com.microsoft"


def masked(model: ir.Model) -> None:
    value = model.graph.inputs[0]
    model.graph.insert_before(model.graph[0], ir.node("Not", [value]))


def extra_residual(model: ir.Model) -> None:
    value = first(model, "Add").outputs[0]
    model.graph.insert_after(first(model, "Add"), ir.node("Add", [value, value]))


def fused_norm(model: ir.Model) -> None:
    norm = first(model, "LayerNormalization")
    norm.op_type, norm.domain = "SkipLayerNormalization", "com.microsoft"


def lost_bias_of_the_gelu(model: ir.Model) -> None:
    gelu = first(model, "FastGelu")
    gelu.op_type, gelu.domain = "Gelu", ""


def lens_lost(model: ir.Model) -> None:
    first(model, "TopK").op_type = "Split"


def attention_lost(model: ir.Model) -> None:
    node = first(model, "GroupQueryAttention")
    node.op_type = "MultiHeadAttention"


ANY = [
    (
        operator_of_another_domain,
        "operators com.example::Gather, which the (portable|serving|explaining) graph must not have",
    ),
    (unknown_operator, "operators Einsum, which the (portable|serving|explaining) graph must not have"),
    (input_of_another_name, r"of the contract: 'ids' instead of 'input_ids'"),
    (output_of_another_name, "'present_0'"),
    (one_input_more, "'use_cache_branch'"),
    (inputs_in_another_order, "not those of the contract"),
    (input_of_another_type, "input_ids"),
    (batch_of_another_name, "input_ids"),
    (fixed_batch, r"(present\.1\.value|attentions\.1) is FLOAT \[1, "),
    (inlined_weight, r"holds weights of its own, transformer\.wpe\.weight"),
    (weight_in_a_constant, "holds weights of its own"),
    (extra_product, "(13|9) MatMul instead of (12|8)"),
    (lost_normalisation, "(4 LayerNormalization instead of 5|6 LayerNormalization instead of 7)"),
]
OWN = [
    (PORTABLE, contrib_gelu, "operators com.microsoft::Gelu, which the portable graph must not have"),
    (EXPLAIN, lens_lost, "2 TopK instead of 3; a fusion or a folding was lost"),
    (SERVING, masked, "operators Not, which the serving graph must not have"),
    (SERVING, extra_residual, "12 Add instead of 11; a fusion or a folding was lost"),
    (SERVING, fused_norm, "operators com.microsoft::SkipLayerNormalization, which the serving graph must not have"),
    (SERVING, lost_bias_of_the_gelu, "1 FastGelu instead of 2"),
    (SERVING, attention_lost, "operators com.microsoft::MultiHeadAttention, which the serving graph must not have"),
]
Change = Callable[[ir.Model], None]


@pytest.mark.parametrize(("change", "complaint"), ANY, ids=lambda value: value.__name__ if callable(value) else "")
def test_a_graph_that_breaks_the_contract_is_refused(
    exported: ir.Model, kind: Kind, config: GPT2Config, change: Change, complaint: str
) -> None:
    change(exported)
    with pytest.raises(GraphError, match=complaint):
        export.check(exported, kind, config)


@pytest.mark.parametrize(
    ("of", "change", "complaint"), OWN, ids=lambda value: value.__name__ if callable(value) else ""
)
def test_a_breach_of_one_kinds_contract_is_refused(
    made: Path, config: GPT2Config, of: Kind, change: Change, complaint: str
) -> None:
    model = ir.load(made / of.file)
    change(model)
    with pytest.raises(GraphError, match=complaint):
        export.check(model, of, config)


def test_the_graph_of_another_network_is_refused(exported: ir.Model, kind: Kind, config: GPT2Config) -> None:
    three_layers = GPT2Config(**{**vars(config), "n_layer": 3})
    with pytest.raises(GraphError, match="not those of the contract"):
        export.check(exported, kind, three_layers)


def test_a_graph_of_the_other_kind_is_refused(exported: ir.Model, kind: Kind, config: GPT2Config) -> None:
    for other in {PORTABLE, SERVING, EXPLAIN} - {kind}:
        with pytest.raises(GraphError, match="not those of the contract"):
            export.check(exported, other, config)
