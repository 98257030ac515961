"""`graph.check` refuses every graph that is not the contract's, and lets the contract's own pass."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from gpt2_export import graph
from gpt2_export.errors import GraphError
from gpt2_model import GPT2, GPT2Config


@pytest.fixture(scope="module")
def config(made: Path) -> GPT2Config:
    return GPT2.from_pretrained(made).config


@pytest.fixture
def exported(made: Path) -> ir.Model:
    return ir.load(made / graph.GRAPH)


def first(model: ir.Model, kind: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == kind)


def test_the_made_graph_passes(exported: ir.Model, config: GPT2Config) -> None:
    graph.check(exported, config)


def contrib_operator(model: ir.Model) -> None:
    first(model, "Gelu").domain = "com.microsoft"


def unknown_operator(model: ir.Model) -> None:
    first(model, "Not").op_type = "Einsum"


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
    model.graph.outputs[0].shape = ir.Shape([1, "sequence_length", 300])


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


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (contrib_operator, "operators com.microsoft, which the portable one must not have"),
        (unknown_operator, "operators Einsum, which the portable one must not have"),
        (input_of_another_name, r"inputs \['ids', "),
        (output_of_another_name, "'present_0'"),
        (one_input_more, "'use_cache_branch'"),
        (inputs_in_another_order, "not those of the contract"),
        (input_of_another_type, "input_ids"),
        (batch_of_another_name, "input_ids"),
        (fixed_batch, "logits"),
        (inlined_weight, r"holds weights of its own, transformer\.wpe\.weight"),
        (weight_in_a_constant, "holds weights of its own"),
        (lost_normalisation, "4 LayerNormalization instead of 5"),
        (extra_product, "13 MatMul instead of 12"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_graph_that_breaks_the_contract_is_refused(
    exported: ir.Model, config: GPT2Config, change: Callable[[ir.Model], None], complaint: str
) -> None:
    change(exported)
    with pytest.raises(GraphError, match=complaint):
        graph.check(exported, config)


def test_the_graph_of_another_network_is_refused(exported: ir.Model, config: GPT2Config) -> None:
    three_layers = GPT2Config(**{**vars(config), "n_layer": 3})
    with pytest.raises(GraphError, match="not those of the contract"):
        graph.check(exported, three_layers)
