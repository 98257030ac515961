"""Each precision's files: their content, their graphs, and what is refused."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from gpt2_export.errors import GraphError, PrecisionError
from gpt2_export.graphs import export, kinds
from gpt2_export.graphs.portable import PORTABLE
from gpt2_export.graphs.serving import SERVING
from gpt2_export.precision import fp16, nbits, smoothing
from gpt2_export.precision.blocks import dequantize
from gpt2_export.precision.precision import FP16, INT4, INT8, PRECISIONS, Precision, kept, named
from gpt2_export.verification import backends
from gpt2_export.weights import safetensors_file
from gpt2_model import GPT2, GPT2Config
from gpt2_model.weights import TRANSPOSE, map_tensor_name, stored_name

MakeModel = Callable[..., GPT2]
Freeze = Callable[[GPT2, Path], None]
WEIGHTS = "model.safetensors"
IDS = np.random.default_rng(0).integers(300, size=(1, 12))

all_precisions = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=list(PRECISIONS))
blocked = pytest.mark.parametrize("precision", [INT8, INT4], ids=["int8", "int4"])


def logits(step: backends.Step) -> np.ndarray:
    return np.asarray(step(IDS, np.ones_like(IDS), np.arange(12)[None], None)[0][0])


def values(folder: Path, precision: Precision) -> dict[str, np.ndarray]:
    file = folder / precision.weights
    return {
        n: safetensors_file.read(file, place)
        for n, place in safetensors_file.places(file, tuple(safetensors_file.DTYPES)).items()
    }


def test_names_are_those_that_transformers_js_looks_for() -> None:
    assert [(p.name, p.weights, p.file("model.onnx")) for p in PRECISIONS.values()] == [
        ("fp16", "model_fp16.safetensors", "model_fp16.onnx"),
        ("int8", "model_int8.safetensors", "model_int8.onnx"),
        ("int4", "model_q4.safetensors", "model_q4.onnx"),
    ]


def test_precisions_have_one_order_and_an_unknown_name_is_refused() -> None:
    assert named(["int4", "fp32", "int8"]) == (INT8, INT4)
    assert named(["fp32"]) == ()
    with pytest.raises(PrecisionError, match="unknown precision 'int2'; expected one of fp32, fp16, int8, int4"):
        named(["int8", "int2"])


@all_precisions
def test_every_tensor_is_read_by_a_graph_and_nothing_is_stored_twice(quantized: Path, precision: Precision) -> None:
    files = safetensors_file.places(quantized / precision.weights, tuple(safetensors_file.DTYPES))
    for kind in kinds.kinds_for(precision):
        proto = onnx.load(quantized / kinds.file_of(kind, precision), load_external_data=False)
        places = set()
        for tensor in proto.graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            if place:
                assert place["location"] == precision.weights
                places.add((int(place["offset"]), int(place["length"])))
            else:
                assert len(tensor.raw_data) <= 64
        covered = sum(length for _, length in places)
        assert covered == sum(place.nbytes for place in files.values())
    assert not [name for name in files if name.startswith("lm_head")]  # tied: the embedding's own bytes


@blocked
def test_blocks_represent_the_float32_weights(quantized: Path, model: GPT2, precision: Precision) -> None:
    whole = nbits._smoothed(model.config, quantized / WEIGHTS, ())
    stored = values(quantized, precision)
    matrices = [name for name in stored if name.endswith(".blocks")]
    assert len(matrices) == 4 * 2 + 1
    for blocks in matrices:
        name = blocks.removesuffix(".blocks")
        bits = 4 if precision is INT4 and ".h." in name else 8
        back = dequantize(stored[blocks], stored[f"{name}.scales"], bits=bits)
        weight = whole[name]()
        weight = weight.T if map_tensor_name(name)[1] == TRANSPOSE else weight
        assert np.abs(back - weight).max() < np.abs(weight).max() / (200 if bits == 8 else 6)


@blocked
def test_products_are_of_blocks_and_round_activations_to_eight_bits(quantized: Path, precision: Precision) -> None:
    for kind in kinds.kinds_for(precision):
        proto = export.load(quantized / kinds.file_of(kind, precision))
        products = [node for node in proto.graph.node if node.op_type == "MatMulNBits"]
        assert len(products) == 4 * 2 + 1
        for node in products:
            attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
            assert attributes["accuracy_level"] == 4
            assert attributes["bits"] == (4 if precision is INT4 and attributes["N"] != 300 else 8)
        assert not [node for node in proto.graph.node if node.op_type == "Gemm"]


@all_precisions
def test_both_kinds_of_graph_agree_on_the_weights(quantized: Path, precision: Precision) -> None:
    """Their products are the same; attention rounds differently, which can move an 8-bit activation by a step."""
    reference = logits(backends.graph("serving", quantized))
    found = [logits(backends.graph(kind.name, quantized, precision)) for kind in kinds.kinds_for(precision)]
    apart = np.abs(found[0] - found[1]).max()
    lost = max(np.abs(each - reference).max() for each in found)
    assert 0 < lost < {"fp16": 0.05, "int8": 0.5, "int4": 6}[precision.name]
    assert apart < lost


def test_only_the_serving_graph_has_a_half_precision_cache() -> None:
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    for kind in kinds.kinds_for(FP16):
        inputs, outputs = kind.specs(config, FP16)
        types = {inputs["past_key_values.0.key"].type.name, outputs["present.0.value"].type.name}
        assert types == ({"FLOAT16"} if kind is SERVING else {"FLOAT"})
        assert outputs["logits"].type.name == "FLOAT"


@pytest.mark.parametrize(
    "operator", ["LayerNormalization", "SkipLayerNormalization", "Softmax", "FastGelu", "Gelu", "Gemm"]
)
def test_in_half_precision_these_are_computed_in_float32(quantized: Path, operator: str) -> None:
    for kind in kinds.kinds_for(FP16):
        proto = onnx.shape_inference.infer_shapes(onnx.load(quantized / kinds.file_of(kind, FP16)))
        types = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
        for node in proto.graph.node:
            if node.op_type == operator:
                half_inputs = [name for name in node.input if types.get(name) == onnx.TensorProto.FLOAT16]
                assert half_inputs == []


def test_a_layer_in_half_precision_launches_few_gpu_kernels(quantized: Path) -> None:
    """Per layer 4 products, attention and GELU; every norm but the first and the last includes its residual."""
    found = export.op_counts(export.load(quantized / kinds.file_of(SERVING, FP16)))
    assert found == {
        # around products; c_attn's biases, the embeddings, the head, the logits' positions
        "Cast": 12 + 2 + 2 + 1 + 1,
        "MatMul": 8,
        "Add": 5,  # a bias before attention, the embeddings, the last residual and its bias
        "SkipLayerNormalization": 3,
        "Gather": 3,
        "LayerNormalization": 2,
        "GroupQueryAttention": 2,
        "FastGelu": 2,
        "Reshape": 2,
        "Gemm": 1,
    }
    assert "SkipLayerNormalization" not in export.op_counts(export.load(quantized / kinds.file_of(PORTABLE, FP16)))


def test_a_kept_matrix_before_attention_outputs_float32(model: GPT2, made: Path, tmp_path: Path) -> None:
    """Then its bias is added in float32 too, and the sum is rounded to half precision."""
    folder = tmp_path / "kept"
    shutil.copytree(made, folder)
    weights = FP16.freeze(model.config, folder / WEIGHTS, folder, ["h.0.attn.c_attn", "h.1.mlp"])
    base, _ = kinds.trace_all(model.config, folder / WEIGHTS, kinds=[SERVING])
    kinds.write_all(base, model.config, folder, (FP16, weights))
    reference, found = (logits(backends.graph("serving", folder, each)) for each in (None, FP16))
    assert 0 < np.abs(found - reference).max() < 0.05


@pytest.mark.parametrize("parameter", ["h.1.mlp.c_fc.weight", "wte.weight", "wpe.weight", "lm_head.weight"])
def test_a_weight_beyond_float16_is_refused_by_the_name_that_keeps_it(
    make_model: MakeModel, freeze_network: Freeze, tmp_path: Path, parameter: str
) -> None:
    large = make_model(tie_word_embeddings=parameter != "lm_head.weight")
    with torch.no_grad():
        large.get_parameter(parameter)[3, 4] = 7e4
    freeze_network(large, tmp_path)
    source, name = tmp_path / WEIGHTS, parameter.removesuffix(".weight")
    message = f"^{name} has a weight of 7e.04, float16 ends at 65504; keep it in float32 with keep .--keep {name}.$"
    with pytest.raises(PrecisionError, match=message) as refused:
        FP16.freeze(large.config, source, tmp_path)
    FP16.freeze(large.config, source, tmp_path, [str(refused.value).split()[-1].rstrip(")")])
    assert values(tmp_path, FP16)[stored_name(parameter)].dtype == np.float32
    assert fp16.LARGEST == 65504


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["h"], 8),
        (["h.1"], 4),
        (["wpe"], 1),
        (["h.0.mlp"], 2),
        (["h.0.mlp.c_fc", "wte"], 2),
        (["h.0.mlp.c_fc.weight"], 1),
        ([], 0),
    ],
)
def test_matrices_to_keep_are_named_by_prefix(made: Path, names: list[str], count: int) -> None:
    assert len(kept(made / WEIGHTS, names)) == count


@pytest.mark.parametrize("name", ["h.2", "ln_f", "lm_head", "h.0.mlp.c", "h.0.mlp.c_fc.bias", ""])
def test_a_matrix_that_does_not_exist_cannot_be_kept(made: Path, name: str) -> None:
    with pytest.raises(PrecisionError, match=f"no matrix '{name}' to keep"):
        kept(made / WEIGHTS, [name])


@all_precisions
def test_a_context_of_one_token_cannot_be_measured(precision: Precision) -> None:
    config = GPT2Config(vocab_size=50, n_positions=1, n_embd=16, n_layer=1, n_head=2)
    expected = "n_positions is 1, but the loss of a precision is measured on tokens that follow others: 2 or more"
    assert precision.refusal(config) == expected
    assert precision.refusal(dataclasses.replace(config, n_positions=2)) is None


@blocked
def test_rows_that_no_block_divides_are_refused(precision: Precision) -> None:
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=24, n_layer=1, n_head=3)
    assert precision.refusal(config) == "n_embd is 24, not a multiple of 16, the smallest block of MatMulNBits"
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=1, n_head=4, n_inner=40)
    assert precision.refusal(config) == "n_inner is 40, not a multiple of 16, the smallest block of MatMulNBits"
    assert precision.refusal(GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=1, n_head=4)) is None


@pytest.mark.parametrize("tied", [True, False])
def test_large_channels_of_every_norm_are_moved_and_far_less_is_lost(
    make_model: MakeModel, freeze_network: Freeze, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    model = make_model(n_embd=32, tie_word_embeddings=tied)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" in name and name.endswith("weight"):
                parameter[[3, 17]] *= 30
    freeze_network(model, tmp_path)
    bases, _ = kinds.trace_all(model.config, tmp_path / WEIGHTS, kinds=kinds.kinds_for(INT8))
    kinds.write_all(bases, model.config, tmp_path)
    expected = logits(backends.graph("serving", tmp_path))

    def lost(kind: str) -> float:
        return float(np.abs(logits(backends.graph(kind, tmp_path, INT8)) - expected).mean())

    def write() -> None:
        weights = INT8.freeze(model.config, tmp_path / WEIGHTS, tmp_path)
        kinds.write_all(bases, model.config, tmp_path, (INT8, weights))

    write()
    assert ("transformer.wte.weight.channels" in values(tmp_path, INT8)) == tied
    smooth = [lost(kind.name) for kind in kinds.kinds_for(INT8)]
    monkeypatch.setattr(smoothing, "factors", lambda weight, bias, reader: np.ones(len(weight), np.float32))
    write()
    assert max(smooth) < 0.6 * min(lost(kind.name) for kind in kinds.kinds_for(INT8))


def test_a_graph_that_leaves_blocks_unread_is_refused(model: GPT2, made: Path, tmp_path: Path) -> None:
    bases, _ = kinds.trace_all(model.config, made / WEIGHTS, kinds=[SERVING])
    weights = INT8.freeze(model.config, made / WEIGHTS, tmp_path)
    proto = bases[SERVING]
    product = next(node for node in proto.graph if node.op_type == "MatMul")
    product.replace_input_with(1, proto.graph.initializers["transformer.h.1.attn.c_attn.weight"])
    with pytest.raises(GraphError, match=r"transformer\.h\.0\.attn\.c_attn\.weight\.blocks of .* are not read"):
        export.finished(proto, SERVING, model.config, (INT8, weights))
