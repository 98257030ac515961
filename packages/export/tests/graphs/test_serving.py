"""The serving graph: the names, types and axes that the runtime feeds, and the count of each operator."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from gpt2_export.errors import GraphError
from gpt2_export.graphs import export, serving
from gpt2_export.graphs.serving import SERVING, ServingGPT2
from gpt2_export.verification import backends
from gpt2_model import GPT2, GPT2Config

MakeModel = Callable[..., GPT2]
Freeze = Callable[[GPT2, Path], None]
WEIGHTS = "model.safetensors"

# A tied network of two layers. A fusion lost with another torch or onnxscript changes a number here.
CENSUS = {
    "Add": 11, "MatMul": 8, "LayerNormalization": 5, "Gather": 3, "GroupQueryAttention": 2, "FastGelu": 2,
    "Reshape": 2, "Cast": 1, "Gemm": 1,
}  # fmt: skip
CONTRIB = {"GroupQueryAttention", "FastGelu"}


@pytest.fixture(scope="module")
def proto(made: Path) -> onnx.ModelProto:
    return export.load(made / SERVING.file)


def axes(value: onnx.ValueInfoProto) -> tuple[int, list[str | int]]:
    kind = value.type.tensor_type
    return kind.elem_type, [axis.dim_param or axis.dim_value for axis in kind.shape.dim]


def nodes(proto: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.op_type == operator]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def test_inputs_are_the_contracts(proto: onnx.ModelProto) -> None:
    past = (onnx.TensorProto.FLOAT, ["batch_size", 2, "cache_length", 8])
    assert [(value.name, axes(value)) for value in proto.graph.input] == [
        ("input_ids", (onnx.TensorProto.INT64, ["batch_size", "sequence_length"])),
        ("position_ids", (onnx.TensorProto.INT64, ["batch_size", "sequence_length"])),
        ("seqlens_k", (onnx.TensorProto.INT32, ["batch_size"])),
        ("total_sequence_length", (onnx.TensorProto.INT32, [])),
        ("logits_index", (onnx.TensorProto.INT64, ["logits_count"])),
        ("past_key_values.0.key", past),
        ("past_key_values.0.value", past),
        ("past_key_values.1.key", past),
        ("past_key_values.1.value", past),
    ]


def test_outputs_are_the_contracts_and_the_present_is_as_long_as_the_past(proto: onnx.ModelProto) -> None:
    present = (onnx.TensorProto.FLOAT, ["batch_size", 2, "cache_length", 8])
    assert [(value.name, axes(value)) for value in proto.graph.output] == [
        ("logits", (onnx.TensorProto.FLOAT, ["logits_count", 300])),
        ("present.0.key", present),
        ("present.0.value", present),
        ("present.1.key", present),
        ("present.1.value", present),
    ]


def test_operators_are_exactly_these(proto: onnx.ModelProto) -> None:
    assert export.op_counts(proto) == CENSUS
    assert {node.op_type for node in proto.graph.node if node.domain} == CONTRIB
    assert {opset.domain: opset.version for opset in proto.opset_import} == {"": 20, "com.microsoft": 1}


def test_each_attention_has_the_networks_heads_and_scale_and_its_own_layers_cache(
    proto: onnx.ModelProto, model: GPT2
) -> None:
    for layer, node in enumerate(nodes(proto, "GroupQueryAttention")):
        assert attributes(node) == {"num_heads": 2, "kv_num_heads": 2, "scale": pytest.approx(8**-0.5)}
        parts = [f"{layer}.key", f"{layer}.value"]
        # queries, keys and values are one tensor that the operator splits
        assert node.input[1:3] == ["", ""]
        assert node.input[3:5] == [f"past_key_values.{part}" for part in parts]
        assert node.input[5:] == ["seqlens_k", "total_sequence_length"]
        assert node.output[1:] == [f"present.{part}" for part in parts]


def test_each_norm_has_the_networks_epsilon(proto: onnx.ModelProto) -> None:
    norms = nodes(proto, "LayerNormalization")
    assert [attributes(node)["epsilon"] for node in norms] == [pytest.approx(1e-5)] * 5


def test_the_tied_head_is_another_name_for_the_embeddings_place(proto: onnx.ModelProto) -> None:
    (head,) = nodes(proto, "Gemm")
    assert head.input[1] == "lm_head.weight"
    places = {tensor.name: [(e.key, e.value) for e in tensor.external_data] for tensor in proto.graph.initializer}
    assert places["lm_head.weight"]
    assert places["lm_head.weight"] == places["transformer.wte.weight"]
    assert [node.input[0] for node in nodes(proto, "Gather")[:2]] == [
        "transformer.wte.weight",
        "transformer.wpe.weight",
    ]


@pytest.mark.parametrize("tied", [True, False])
def test_a_large_head_is_cut_into_pieces_that_add_up_to_it(
    make_model: MakeModel, freeze_network: Freeze, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    model = make_model(n_layer=1, tie_word_embeddings=tied)
    freeze_network(model, tmp_path)
    V, C = model.lm_head.weight.shape
    monkeypatch.setattr(serving, "PIECE_BYTES", V * C * 4 // 6)  # does not divide the vocabulary
    export.write(export.build(SERVING, model.config, tmp_path / WEIGHTS), tmp_path / SERVING.file)

    proto = export.load(tmp_path / SERVING.file)
    names = [f"lm_head.weight.{piece}" for piece in range(serving.pieces(model.config))]
    assert len(names) >= 6
    assert [head.input[1] for head in nodes(proto, "Gemm")] == names
    places = {t.name: {e.key: e.value for e in t.external_data} for t in proto.graph.initializer if t.external_data}
    assert "lm_head.weight" not in places
    assert all(int(places[name]["length"]) <= V * C * 4 // 6 for name in names)
    end = int(places[names[0]]["offset"])
    for name in names:
        assert int(places[name]["offset"]) == end
        end += int(places[name]["length"])
    assert end - int(places[names[0]]["offset"]) == V * C * 4

    ids = np.random.default_rng(0).integers(V, size=(2, 7))
    with torch.no_grad():
        expected = model(torch.from_numpy(ids))[0].numpy()
    actual, _ = backends.serving(tmp_path)(ids, np.ones_like(ids), np.arange(7)[None].repeat(2, axis=0), None)
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_head_of_gpt2_is_sixteen_pieces() -> None:
    assert serving.pieces(GPT2Config()) == 16


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    # an untied head, and wide enough that weights dominate the folder's size
    "gelu-untied": (
        {"activation_function": "gelu", "tie_word_embeddings": False, "n_embd": 256, "vocab_size": 900, "n_layer": 1},
        {"BiasGelu": 1, "Add": 6, "MatMul": 4, "Gemm": 1},
    ),
    "relu": ({"activation_function": "relu", "n_layer": 1}, {"Relu": 1, "Add": 7}),
    "silu-inner": (
        {"activation_function": "silu", "n_inner": 20, "reorder_and_upcast_attn": True, "n_layer": 1},
        {"Sigmoid": 1, "Mul": 1, "Add": 7},
    ),
    "unscaled-epsilon": ({"scale_attn_weights": False, "layer_norm_epsilon": 1e-2}, CENSUS),
    "scaled-by-layer": ({"scale_attn_by_inverse_layer_idx": True}, CENSUS),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_network_is_exported_correctly(
    make_model: MakeModel, freeze_network: Freeze, tmp_path: Path, variant: str
) -> None:
    fields, operators = VARIANTS[variant]
    model = make_model(**fields)
    freeze_network(model, tmp_path)
    export.write(export.build(SERVING, model.config, tmp_path / WEIGHTS), tmp_path / SERVING.file)

    proto = export.load(tmp_path / SERVING.file)
    assert operators.items() <= export.op_counts(proto).items()
    scales = [attributes(node)["scale"] for node in nodes(proto, "GroupQueryAttention")]
    assert scales == pytest.approx([block.attn.scale for block in model.h])
    ids = np.random.default_rng(0).integers(model.config.vocab_size, size=(2, 7))
    positions = np.arange(7)[None].repeat(2, axis=0)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids))[0].numpy()
    actual, _ = backends.serving(tmp_path)(ids, np.ones_like(ids), positions, None)
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()
    if variant == "gelu-untied":
        weights = sum(parameter.numel() * 4 for parameter in model.parameters())
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1.02 * weights


@pytest.mark.parametrize(("fields", "width"), [({"n_embd": 12, "n_head": 3}, 4), ({"n_embd": 18, "n_head": 1}, 18)])
def test_a_head_size_that_the_operator_does_not_support_is_refused(fields: dict[str, int], width: int) -> None:
    config = GPT2Config(vocab_size=50, n_positions=16, n_layer=1, **fields)
    assert serving.refusal(config) == (
        f"the head size is {width}, but GroupQueryAttention needs a multiple of 8; "
        "the runtime uses the portable graph, which is slower"
    )


@pytest.mark.parametrize("fields", [{"n_embd": 768, "n_head": 12}, {"n_embd": 8, "n_head": 1}])
def test_the_heads_of_published_models_are_accepted(fields: dict[str, int]) -> None:
    assert serving.refusal(GPT2Config(vocab_size=50, n_positions=16, n_layer=1, **fields)) is None


def test_outside_the_exporter_its_attention_refuses_to_return_zeros(model: GPT2) -> None:
    network = ServingGPT2(model.config)
    with pytest.raises(RuntimeError, match="SharedCacheAttention is for the exporter; run the graph that it exports"):
        network(*serving.example(model.config))


def test_the_attention_adds_no_weight_to_the_networks_own(model: GPT2) -> None:
    names = {name.removeprefix("model.") for name in ServingGPT2(model.config).state_dict()}
    assert names == model.state_dict().keys()


def test_a_lost_fusion_is_an_error_and_not_a_slower_graph(
    model: GPT2, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.GELU, "rules", [])
    with pytest.raises(GraphError, match="0 FastGelu instead of 2; a fusion or a folding was lost"):
        export.build(SERVING, model.config, made / WEIGHTS)


def test_only_the_requested_positions_get_logits(made: Path, model: GPT2) -> None:
    """In any order and number, including none."""
    ids = np.random.default_rng(0).integers(300, size=(2, 5))
    with torch.no_grad():
        expected = model(torch.from_numpy(ids))[0].numpy().reshape(10, 300)
    for places in ([9], [4, 0, 7, 7], []):
        slots = {name: np.zeros((2, 2, 24, 8), np.float32) for name in SERVING.inputs(model.config) if "past" in name}
        session = backends.open_graph(SERVING, made)[1]
        feeds = {
            "input_ids": ids,
            "position_ids": np.arange(5)[None].repeat(2, axis=0),
            "seqlens_k": np.full(2, 4, np.int32),
            "total_sequence_length": np.array(5, np.int32),
            "logits_index": np.array(places, np.int64),
        }
        actual = backends._run_in_place(session, feeds, slots)
        assert actual.shape == (len(places), 300)
        np.testing.assert_allclose(actual, expected[places], rtol=0, atol=1e-4)
