"""The portable graph: the contract's names, types and axes, standard operators, and no weight of its own."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from gpt2_export import graph, tensorfile
from gpt2_export.errors import FolderError, GraphError
from gpt2_model import GPT2, GPT2Config
from gpt2_model.weights import stored_tensors
from safetensors.numpy import load_file

MakeModel = Callable[..., GPT2]
WEIGHTS = "model.safetensors"

# The tied network of two layers. A fusion that is lost, or a transpose that comes back, changes a number here.
CENSUS = {
    "Reshape": 13, "Add": 13, "MatMul": 12, "Transpose": 10, "Concat": 7, "LayerNormalization": 5, "Shape": 4,
    "Squeeze": 3, "Unsqueeze": 3, "Not": 2, "Gather": 2, "Split": 2, "Mul": 2, "Where": 2, "Softmax": 2, "Gelu": 2,
    "Range": 1, "Sub": 1, "Slice": 1, "LessOrEqual": 1, "Equal": 1, "And": 1, "Gemm": 1,
}  # fmt: skip


def freeze_weights(model: GPT2, folder: Path) -> None:
    tensors = {name: tensor.numpy() for name, tensor in stored_tensors(model).items()}
    tensorfile.write(folder / WEIGHTS, {name: t.shape for name, t in tensors.items()}, tensors.values())


def load(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / graph.GRAPH, load_external_data=False)


@pytest.fixture(scope="module")
def proto(made: Path) -> onnx.ModelProto:
    return load(made)


@pytest.fixture(scope="module")
def one_layer() -> GPT2Config:
    return GPT2Config(vocab_size=50, n_positions=16, n_embd=12, n_layer=1, n_head=3)


@pytest.fixture(scope="module")
def traced(one_layer: GPT2Config) -> ir.Model:
    """Tracing takes seconds: the tests of what comes after it start from here."""
    return graph.trace(one_layer)


@pytest.fixture
def without_tracing(traced: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "trace", lambda _: traced.clone())


@pytest.fixture
def frozen(one_layer: GPT2Config, tmp_path: Path) -> Path:
    folder = tmp_path / "frozen"
    folder.mkdir()
    freeze_weights(GPT2(one_layer), folder)
    return folder


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


def test_onnxruntime_finds_the_same_types_and_axes(made: Path, proto: onnx.ModelProto) -> None:
    session = onnxruntime.InferenceSession(made / graph.GRAPH, providers=["CPUExecutionProvider"])
    for found, promised in ((session.get_inputs(), proto.graph.input), (session.get_outputs(), proto.graph.output)):
        assert [(value.name, value.shape) for value in found] == [(v.name, axes(v)[1]) for v in promised]


def test_opset_and_ir_version_are_those_that_every_runtime_tried_loads(proto: onnx.ModelProto) -> None:
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 20)]
    assert proto.ir_version == 9


def test_operators_are_exactly_these(made: Path, proto: onnx.ModelProto) -> None:
    assert graph.census(graph.load(made / graph.GRAPH)) == CENSUS
    assert {node.domain for node in proto.graph.node} == {""}
    assert not proto.functions


def test_every_weight_is_a_place_in_the_file_of_weights(made: Path, proto: onnx.ModelProto) -> None:
    content, stored = (made / WEIGHTS).read_bytes(), load_file(made / WEIGHTS)
    outside = [t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert {tensor.name for tensor in outside} == stored.keys()
    for tensor in outside:
        where = {entry.key: entry.value for entry in tensor.external_data}
        assert where["location"] == WEIGHTS
        begin, length = int(where["offset"]), int(where["length"])
        assert content[begin : begin + length] == stored[tensor.name].tobytes()
        assert tuple(tensor.dims) == stored[tensor.name].shape


def test_nothing_of_a_weights_size_is_inside(made: Path, proto: onnx.ModelProto) -> None:
    inside = [t for t in proto.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    inside += [a.t for node in proto.graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
    assert inside  # small constants there must be
    assert max(onnx.numpy_helper.to_array(tensor).size for tensor in inside) <= 4
    assert (made / graph.GRAPH).stat().st_size < 20_000


def test_the_bytes_tell_nothing_of_the_machine(made: Path, proto: onnx.ModelProto) -> None:
    words = re.findall(rb"[ -~]{4,}", (made / graph.GRAPH).read_bytes())
    assert b"input_ids" in b" ".join(words)
    assert not [word for word in words if re.search(rb"/[\w.-]*/|\.py|File|torch|pkg|gpt2_model|namespace", word)]
    assert (proto.producer_name, proto.producer_version, proto.doc_string) == ("gpt2-export", "", "")
    assert not proto.metadata_props
    assert not [node.name for node in proto.graph.node if node.metadata_props or node.doc_string]


def test_every_node_reads_what_an_earlier_one_wrote_and_nothing_is_left_over(proto: onnx.ModelProto) -> None:
    known = {value.name for value in proto.graph.input} | {tensor.name for tensor in proto.graph.initializer}
    read: set[str] = set()
    for node in proto.graph.node:
        assert set(node.input) - {""} <= known, node.name
        known |= set(node.output)
        read |= set(node.input)
    assert known - read == {value.name for value in proto.graph.output} - read


def logits_of(folder: Path, ids: np.ndarray, config: GPT2Config) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / graph.GRAPH, providers=["CPUExecutionProvider"])
    nothing = np.zeros((len(ids), config.n_head, 0, config.head_size), np.float32)
    feeds: dict[str, Any] = dict.fromkeys(graph.input_names(config)[3:], nothing)
    feeds |= {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    feeds["position_ids"] = np.arange(ids.shape[1])[None].repeat(len(ids), axis=0)
    return np.asarray(session.run(["logits"], feeds)[0])


@pytest.mark.parametrize(
    ("fields", "operators"),
    [
        # the exact GELU; a head of its own; wide enough for the size to be the weights'
        ({"activation_function": "gelu", "tie_word_embeddings": False, "n_embd": 256, "vocab_size": 900}, {"Gelu": 1}),
        ({"activation_function": "relu"}, {"Relu": 1}),
        ({"activation_function": "silu", "n_inner": 20, "reorder_and_upcast_attn": True}, {"Sigmoid": 1, "Mul": 2}),
    ],
    ids=["gelu-untied", "relu", "silu"],
)
def test_every_kind_of_network_is_exported_as_it_is(
    make_model: MakeModel, tmp_path: Path, fields: dict[str, Any], operators: dict[str, int]
) -> None:
    model = make_model(n_layer=1, **fields)
    freeze_weights(model, tmp_path)
    graph.export(model.config, tmp_path, WEIGHTS)

    assert operators.items() <= graph.census(graph.load(tmp_path / graph.GRAPH)).items()
    ids = np.random.default_rng(0).integers(model.config.vocab_size, size=(2, 7))
    with torch.no_grad():
        expected = model(torch.from_numpy(ids))[0].numpy()
    assert np.abs(logits_of(tmp_path, ids, model.config) - expected).max() < 1e-5 * np.abs(expected).max()

    proto = load(tmp_path)
    (head,) = (node for node in proto.graph.node if node.op_type == "Gemm")
    assert head.input[1] == ("transformer.wte.weight" if model.config.tie_word_embeddings else "lm_head.weight")
    if fields["activation_function"] == "gelu":
        (gelu,) = (node for node in proto.graph.node if node.op_type == "Gelu")
        approximate = {attribute.name: attribute.s for attribute in gelu.attribute}
        assert approximate.get("approximate", b"none") == b"none"
        weights = sum(parameter.numel() * 4 for parameter in model.parameters())
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1.02 * weights


def test_gpt2s_own_gelu_is_the_tanh_one(proto: onnx.ModelProto) -> None:
    found = [a.s for node in proto.graph.node if node.op_type == "Gelu" for a in node.attribute]
    assert found == [b"tanh", b"tanh"]


def lose(folder: Path, names: set[str]) -> None:
    kept = {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if name not in names}
    tensorfile.write(folder / WEIGHTS, {name: tensor.shape for name, tensor in kept.items()}, kept.values())


@pytest.mark.usefixtures("without_tracing")
def test_a_weight_that_the_file_lacks_is_refused_by_name(frozen: Path, one_layer: GPT2Config) -> None:
    lose(frozen, {"transformer.h.0.mlp.c_fc.bias"})
    with pytest.raises(GraphError, match=r"needs transformer\.h\.0\.mlp\.c_fc\.bias, which .* does not have"):
        graph.export(one_layer, frozen, WEIGHTS)
    assert [file.name for file in frozen.iterdir()] == [WEIGHTS]


@pytest.mark.usefixtures("without_tracing")
@pytest.mark.parametrize("name", ["transformer.wpe.weight", "transformer.h.0.attn.c_attn.weight"])
def test_a_weight_of_another_shape_is_refused_by_name(frozen: Path, one_layer: GPT2Config, name: str) -> None:
    tensors = {key: t.T.copy() if key == name else t for key, t in load_file(frozen / WEIGHTS).items()}
    tensorfile.write(frozen / WEIGHTS, {key: tensor.shape for key, tensor in tensors.items()}, tensors.values())
    with pytest.raises(GraphError, match=rf"{re.escape(name)} has shape .* not config\.json's"):
        graph.export(one_layer, frozen, WEIGHTS)
    assert [file.name for file in frozen.iterdir()] == [WEIGHTS]


@pytest.mark.usefixtures("without_tracing")
def test_a_folder_without_weights_is_refused(one_layer: GPT2Config, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"model\.safetensors is not a whole safetensors file"):
        graph.export(one_layer, tmp_path, WEIGHTS)


@pytest.mark.usefixtures("without_tracing")
@pytest.mark.parametrize("where", ["saving", "checking"])
def test_an_export_that_fails_leaves_the_folder_as_it_was(
    frozen: Path, one_layer: GPT2Config, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    def save_half(_: ir.Model, path: Path) -> None:
        path.write_bytes(b"half")
        fail()

    (frozen / graph.GRAPH).write_bytes(b"the one before")
    if where == "saving":
        monkeypatch.setattr(ir, "save", save_half)
    else:
        monkeypatch.setattr(onnx.checker, "check_model", fail)
    with pytest.raises(OSError, match="no space left"):
        graph.export(one_layer, frozen, WEIGHTS)
    assert sorted(file.name for file in frozen.iterdir()) == [graph.GRAPH, WEIGHTS]
    assert (frozen / graph.GRAPH).read_bytes() == b"the one before"


@pytest.mark.usefixtures("without_tracing")
def test_an_export_writes_nothing_but_the_graph(frozen: Path, one_layer: GPT2Config) -> None:
    before = (frozen / WEIGHTS).read_bytes()
    graph.export(one_layer, frozen, WEIGHTS)
    assert sorted(file.name for file in frozen.iterdir()) == [graph.GRAPH, WEIGHTS]
    assert (frozen / WEIGHTS).read_bytes() == before
    moved = shutil.move(frozen, frozen.with_name("moved"))
    onnx.checker.check_model(Path(moved) / graph.GRAPH, full_check=True)  # it holds no path of where it was made
