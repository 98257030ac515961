"""The portable graph: the names, types and axes that other runtimes feed, and standard operators only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from gpt2_export.graphs import export
from gpt2_export.graphs.portable import PORTABLE
from gpt2_export.verification import backends
from gpt2_model import GPT2

MakeModel = Callable[..., GPT2]
Freeze = Callable[[GPT2, Path], None]
WEIGHTS = "model.safetensors"

# A tied network of two layers. A lost fusion or an extra transpose changes a number here.
CENSUS = {
    "Reshape": 13, "Add": 13, "MatMul": 12, "Transpose": 10, "Concat": 7, "LayerNormalization": 5, "Shape": 4,
    "Squeeze": 3, "Unsqueeze": 3, "Not": 2, "Gather": 2, "Split": 2, "Mul": 2, "Where": 2, "Softmax": 2, "Gelu": 2,
    "Range": 1, "Sub": 1, "Slice": 1, "LessOrEqual": 1, "Equal": 1, "And": 1, "Gemm": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def proto(made: Path) -> onnx.ModelProto:
    return export.load(made / PORTABLE.file)


def axes(value: onnx.ValueInfoProto) -> tuple[int, list[str | int]]:
    kind = value.type.tensor_type
    return kind.elem_type, [axis.dim_param or axis.dim_value for axis in kind.shape.dim]


def test_inputs_are_the_contracts(proto: onnx.ModelProto) -> None:
    past = (onnx.TensorProto.FLOAT, ["batch_size", 2, "past_sequence_length", 8])
    assert [(value.name, axes(value)) for value in proto.graph.input] == [
        ("input_ids", (onnx.TensorProto.INT64, ["batch_size", "sequence_length"])),
        ("attention_mask", (onnx.TensorProto.INT64, ["batch_size", "total_sequence_length"])),
        ("position_ids", (onnx.TensorProto.INT64, ["batch_size", "sequence_length"])),
        ("past_key_values.0.key", past),
        ("past_key_values.0.value", past),
        ("past_key_values.1.key", past),
        ("past_key_values.1.value", past),
    ]


def test_outputs_are_the_contracts(proto: onnx.ModelProto) -> None:
    present = (onnx.TensorProto.FLOAT, ["batch_size", 2, "total_sequence_length", 8])
    assert [(value.name, axes(value)) for value in proto.graph.output] == [
        ("logits", (onnx.TensorProto.FLOAT, ["batch_size", "sequence_length", 300])),
        ("present.0.key", present),
        ("present.0.value", present),
        ("present.1.key", present),
        ("present.1.value", present),
    ]


def test_operators_are_exactly_these_and_onnxs_own(proto: onnx.ModelProto) -> None:
    assert export.op_counts(proto) == CENSUS
    assert {node.domain for node in proto.graph.node} == {""}
    assert [opset.domain for opset in proto.opset_import] == [""]


def test_gpt2s_own_gelu_is_the_tanh_one(proto: onnx.ModelProto) -> None:
    kinds = [a.s for node in proto.graph.node if node.op_type == "Gelu" for a in node.attribute]
    assert kinds == [b"tanh", b"tanh"]


@pytest.mark.parametrize(
    ("fields", "operators"),
    [
        # the exact GELU; an untied head; wide enough that weights dominate the size
        ({"activation_function": "gelu", "tie_word_embeddings": False, "n_embd": 256, "vocab_size": 900}, {"Gelu": 1}),
        ({"activation_function": "relu"}, {"Relu": 1}),
        ({"activation_function": "silu", "n_inner": 20, "reorder_and_upcast_attn": True}, {"Sigmoid": 1, "Mul": 2}),
    ],
    ids=["gelu-untied", "relu", "silu"],
)
def test_every_kind_of_network_is_exported_correctly(
    make_model: MakeModel, freeze_network: Freeze, tmp_path: Path, fields: dict[str, Any], operators: dict[str, int]
) -> None:
    model = make_model(n_layer=1, **fields)
    freeze_network(model, tmp_path)
    export.write(export.build(PORTABLE, model.config, tmp_path / WEIGHTS), tmp_path / PORTABLE.file)

    proto = export.load(tmp_path / PORTABLE.file)
    assert operators.items() <= export.op_counts(proto).items()
    ids = np.random.default_rng(0).integers(model.config.vocab_size, size=(2, 7))
    positions = np.arange(7)[None].repeat(2, axis=0)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids))[0].numpy()
    actual, _ = backends.portable(tmp_path)(ids, np.ones_like(ids), positions, None)
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()

    (head,) = (node for node in proto.graph.node if node.op_type == "Gemm")
    assert head.input[1] == ("transformer.wte.weight" if model.config.tie_word_embeddings else "lm_head.weight")
    if fields["activation_function"] == "gelu":
        (gelu,) = (node for node in proto.graph.node if node.op_type == "Gelu")
        approximate = {attribute.name: attribute.s for attribute in gelu.attribute}
        assert approximate.get("approximate", b"none") == b"none"
        weights = sum(parameter.numel() * 4 for parameter in model.parameters())
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1.02 * weights
