"""The explain graph: its contract, and that it shows what the network computes or is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from gpt2_export.graphs import export
from gpt2_export.graphs.explain import EXPLAIN, ExplainingGPT2
from gpt2_export.verification import explain_parity
from gpt2_model import GPT2
from onnx import helper, numpy_helper

MakeModel = Callable[..., GPT2]
Freeze = Callable[[GPT2, Path], None]

CENSUS = {
    "Reshape": 18, "Add": 13, "Unsqueeze": 12, "MatMul": 12, "Concat": 8, "Transpose": 8, "LayerNormalization": 7,
    "Shape": 5, "Squeeze": 5, "Gather": 3, "Gemm": 3, "LogSoftmax": 3, "TopK": 3, "GatherElements": 3,
    "Split": 2, "Mul": 2, "Where": 2, "Softmax": 2, "Gelu": 2, "Range": 1, "LessOrEqual": 1, "Not": 1, "Cast": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def proto(made: Path) -> onnx.ModelProto:
    return export.load(made / EXPLAIN.file)


def axes(value: onnx.ValueInfoProto) -> tuple[int, list[str | int]]:
    kind = value.type.tensor_type
    return kind.elem_type, [axis.dim_param or axis.dim_value for axis in kind.shape.dim]


def test_inputs_and_outputs_are_the_contracts(proto: onnx.ModelProto) -> None:
    text = ["batch_size", "sequence_length"]
    integer, real = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    assert [(value.name, axes(value)) for value in proto.graph.input] == [
        ("input_ids", (integer, text)),
        ("target_ids", (integer, text)),
        ("top_k", (integer, [])),
    ]
    assert [(value.name, axes(value)) for value in proto.graph.output] == [
        ("logits", (real, [*text, 300])),
        ("lens_ids", (integer, [3, *text, "top_k"])),
        ("lens_log_probs", (real, [3, *text, "top_k"])),
        ("lens_target_log_probs", (real, [3, *text])),
        ("attentions.0", (real, ["batch_size", 2, "sequence_length", "sequence_length"])),
        ("attentions.1", (real, ["batch_size", 2, "sequence_length", "sequence_length"])),
    ]


def test_operators_are_exactly_these_and_onnxs_own(proto: onnx.ModelProto) -> None:
    assert export.op_counts(proto) == CENSUS
    assert [opset.domain for opset in proto.opset_import] == [""]


def test_every_lens_reads_the_same_place_in_the_file(proto: onnx.ModelProto) -> None:
    heads = [node.input[1] for node in proto.graph.node if node.op_type == "Gemm"]
    assert heads == ["transformer.wte.weight"] * 3


def test_the_network_adds_no_weight_to_its_own(model: GPT2) -> None:
    names = {name.removeprefix("model.") for name in ExplainingGPT2(model.config).state_dict()}
    assert names == model.state_dict().keys()


@pytest.mark.parametrize("top", [1, 7, 300])
def test_any_number_of_predictions_is_returned_at_each_position(made: Path, top: int) -> None:
    session = onnxruntime.InferenceSession(made / EXPLAIN.file)
    ids = np.random.default_rng(0).integers(300, size=(2, 24))
    feeds = {"input_ids": ids, "target_ids": ids, "top_k": np.array(top)}
    logits, guesses, log_probs, *_ = session.run(None, feeds)
    assert guesses.shape == log_probs.shape == (3, 2, 24, top)
    expected = torch.from_numpy(logits).log_softmax(dim=-1).sort(descending=True)
    np.testing.assert_allclose(log_probs[-1], expected.values[..., :top], rtol=0, atol=1e-4)
    actual = np.take_along_axis(logits, guesses[-1], axis=-1)
    np.testing.assert_allclose(actual, np.take_along_axis(logits, expected.indices[..., :top].numpy(), axis=-1))


def test_attention_sums_to_one_and_never_looks_ahead(made: Path) -> None:
    session = onnxruntime.InferenceSession(made / EXPLAIN.file)
    ids = np.random.default_rng(0).integers(300, size=(1, 9))
    _, _, _, _, *attentions = session.run(None, {"input_ids": ids, "target_ids": ids, "top_k": np.array(1)})
    for layer in attentions:
        np.testing.assert_allclose(layer.sum(axis=-1), 1, rtol=0, atol=1e-6)
        assert not layer[..., *np.triu_indices(9, 1)].any()


@pytest.mark.parametrize(
    "fields",
    [
        {"activation_function": "relu", "tie_word_embeddings": False},
        {"activation_function": "silu", "reorder_and_upcast_attn": True, "n_inner": 20},
        {"activation_function": "gelu", "scale_attn_by_inverse_layer_idx": True, "n_embd": 12, "n_head": 3},
    ],
    ids=["relu-untied", "silu-upcast", "gelu-narrow"],
)
def test_every_kind_of_network_shows_what_it_computes(
    make_model: MakeModel, freeze_network: Freeze, tmp_path: Path, fields: dict[str, Any]
) -> None:
    model = make_model(**fields, n_layer=1)
    freeze_network(model, tmp_path)
    export.write(export.build(EXPLAIN, model.config, tmp_path / "model.safetensors"), tmp_path / EXPLAIN.file)
    figures = explain_parity.compare(tmp_path)
    assert explain_parity.beyond(figures) == []
    assert all(entry["tolerance"] < 1e-3 for entry in figures.values())


def swapped_attentions(proto: onnx.GraphProto) -> None:
    one, other = proto.output[-2:]
    for node in proto.node:
        names = {one.name: other.name, other.name: one.name}
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]


def lens_without_the_last_norm(proto: onnx.GraphProto) -> None:
    norm = [node for node in proto.node if node.op_type == "LayerNormalization"][-3]
    assert "ln_f" in norm.input[1]
    for node in proto.node:
        if node.op_type in ("Flatten", "Shape", "Reshape"):
            node.input[:] = [norm.input[0] if name == norm.output[0] else name for name in node.input]


def probabilities_of_the_wrong_tokens(proto: onnx.GraphProto) -> None:
    proto.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
    gather = next(node for node in proto.node if node.op_type == "TopK")
    ids = gather.output[1]
    for node in proto.node:
        node.input[:] = ["ids_off_by_one" if name == ids else name for name in node.input]
    at = list(proto.node).index(gather) + 1
    proto.node.insert(at, helper.make_node("BitwiseXor", [ids, "one"], ["ids_off_by_one"]))


def upside_down(proto: onnx.GraphProto) -> None:
    for node in proto.node:
        if node.op_type == "TopK":
            (largest,) = (attribute for attribute in node.attribute if attribute.name == "largest")
            largest.i = 0


MISTAKES = {
    swapped_attentions: "attention",
    lens_without_the_last_norm: "lens",
    probabilities_of_the_wrong_tokens: "lens",
    upside_down: "lens",
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_graph_that_shows_wrong_results_is_refused(
    made_copy: Path, mistake: Callable[[onnx.GraphProto], None]
) -> None:
    path = made_copy / EXPLAIN.file
    proto = onnx.load(path, load_external_data=False)
    mistake(proto.graph)
    path.write_bytes(proto.SerializeToString())
    (failure,) = explain_parity.beyond(explain_parity.compare(made_copy))
    assert failure.startswith(f"{MISTAKES[mistake]} differs by ")


def test_nan_figures_are_refused() -> None:
    fine = {"max_difference": 0.0, "float32_error": 0.0, "tolerance": 1e-4}
    assert explain_parity.beyond({"lens": fine}) == []
    wrong = {"attention": fine, "lens": fine | {"max_difference": float("nan")}}
    assert explain_parity.beyond(wrong) == ["lens differs by nan, limit 0.0001"]
