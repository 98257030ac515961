"""Every kind of graph: no weight of its own, no trace of the machine, written completely or not at all."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from gpt2_export.graphs import export
from gpt2_export.graphs.export import Kind
from gpt2_model import GPT2
from gpt2_model.weights import stored_tensors
from safetensors.numpy import load_file

Freeze = Callable[[GPT2, Path], None]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def proto(made: Path, kind: Kind) -> onnx.ModelProto:
    return export.load(made / kind.file)


@pytest.fixture
def frozen(model: GPT2, freeze_network: Freeze, tmp_path: Path) -> Path:
    folder = tmp_path / "frozen"
    folder.mkdir()
    freeze_network(model, folder)
    return folder


def test_onnxruntime_reports_the_contracts_names_and_axes(made: Path, model: GPT2, kind: Kind) -> None:
    session = onnxruntime.InferenceSession(made / kind.file, providers=["CPUExecutionProvider"])
    inputs, outputs = kind.inputs(model.config), kind.outputs(model.config)
    for actual, promised in ((session.get_inputs(), inputs), (session.get_outputs(), outputs)):
        assert [(value.name, value.shape) for value in actual] == [(name, [*s.axes]) for name, s in promised.items()]


def test_opset_and_ir_version_are_those_that_every_tested_runtime_loads(proto: onnx.ModelProto) -> None:
    assert next(opset.version for opset in proto.opset_import if not opset.domain) == 20
    assert proto.ir_version == 9
    assert not proto.functions


def test_every_weight_is_a_place_in_the_file_of_weights(made: Path, proto: onnx.ModelProto) -> None:
    content, stored = (made / WEIGHTS).read_bytes(), load_file(made / WEIGHTS)
    stored["lm_head.weight"] = stored["transformer.wte.weight"]  # a graph may read it under either name
    outside = [t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert {tensor.name for tensor in outside} | {"lm_head.weight"} == stored.keys()
    for tensor in outside:
        where = {entry.key: entry.value for entry in tensor.external_data}
        assert where["location"] == WEIGHTS
        begin, length = int(where["offset"]), int(where["length"])
        assert content[begin : begin + length] == stored[tensor.name].tobytes()
        assert tuple(tensor.dims) == stored[tensor.name].shape


def test_nothing_as_large_as_a_weight_is_inside(made: Path, kind: Kind, proto: onnx.ModelProto) -> None:
    inside = [t for t in proto.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    inside += [a.t for node in proto.graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
    assert inside  # there must be small constants
    assert max(onnx.numpy_helper.to_array(tensor).size for tensor in inside) <= 4
    assert (made / kind.file).stat().st_size < 20_000


def test_the_bytes_reveal_nothing_about_the_machine(made: Path, kind: Kind, proto: onnx.ModelProto) -> None:
    words = re.findall(rb"[ -~]{4,}", (made / kind.file).read_bytes())
    assert b"input_ids" in b" ".join(words)
    assert not [word for word in words if re.search(rb"/[\w.-]*/|\.py|File|torch|pkg|gpt2_model|namespace", word)]
    assert (proto.producer_name, proto.producer_version, proto.doc_string) == ("gpt2-export", "", "")
    assert not proto.metadata_props
    assert not [node.name for node in proto.graph.node if node.metadata_props or node.doc_string]


def test_every_node_reads_what_an_earlier_one_wrote_and_nothing_is_left_over(
    model: GPT2, kind: Kind, proto: onnx.ModelProto
) -> None:
    known = {value.name for value in proto.graph.input} | {tensor.name for tensor in proto.graph.initializer}
    read: set[str] = set()
    for node in proto.graph.node:
        assert set(node.input) - {""} <= known, node.name
        known |= set(node.output)
        read |= set(node.input)
    # Of an operator's outputs only the last may be unread: mean and deviation come before the sum.
    unread = {name for node in proto.graph.node for name in node.output[1:-1]} - kind.outputs(model.config).keys()
    assert known - read - unread == {value.name for value in proto.graph.output} - read


@pytest.mark.parametrize("where", ["saving", "checking"])
def test_a_graph_that_cannot_be_written_leaves_the_previous_one(
    made: Path, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    def save_half(_: ir.Model, path: Path) -> None:
        path.write_bytes(b"half")
        fail()

    model = ir.load(made / kind.file)
    (tmp_path / kind.file).write_bytes(b"the previous one")
    if where == "saving":
        monkeypatch.setattr(ir, "save", save_half)
    else:
        monkeypatch.setattr(onnx.checker, "check_model", fail)
    with pytest.raises(OSError, match="no space left"):
        export.write(model, tmp_path / kind.file)
    assert [file.name for file in tmp_path.iterdir()] == [kind.file]
    assert (tmp_path / kind.file).read_bytes() == b"the previous one"


def test_a_written_graph_contains_no_path_of_this_machine(made: Path, kind: Kind, frozen: Path) -> None:
    before = (frozen / WEIGHTS).read_bytes()
    export.write(ir.load(made / kind.file), frozen / kind.file)
    assert sorted(file.name for file in frozen.iterdir()) == sorted(["config.json", kind.file, WEIGHTS])
    assert (frozen / WEIGHTS).read_bytes() == before
    moved = shutil.move(frozen, frozen.with_name("moved"))
    onnx.checker.check_model(Path(moved) / kind.file, full_check=True)


@pytest.mark.usefixtures("_uncached_traces")
def test_the_exporters_own_warnings_are_not_shown(
    made: Path, kind: Kind, frozen: Path, model: GPT2, capfd: pytest.CaptureFixture[str]
) -> None:
    built = export.build(kind, model.config, frozen / WEIGHTS)  # warnings are errors here
    assert capfd.readouterr() == ("", "")
    export.write(built, frozen / kind.file)
    assert (frozen / kind.file).read_bytes() == (made / kind.file).read_bytes()
    assert np.array_equal(load_file(frozen / WEIGHTS)["transformer.ln_f.bias"], model.ln_f.bias.detach().numpy())


def test_equal_weights_are_not_merged(kind: Kind, model: GPT2, freeze_network: Freeze, tmp_path: Path) -> None:
    """Before training norms are ones and biases zeros. In another precision they may differ."""
    untrained = GPT2(model.config)
    freeze_network(untrained, tmp_path)
    base = export.base(kind, untrained.config, tmp_path / WEIGHTS)
    weights = {name: value for name, value in base.graph.initializers.items() if name.startswith("transformer.")}
    assert weights.keys() == stored_tensors(untrained).keys()
    assert all(isinstance(weight.const_value, ir.ExternalTensor) for weight in weights.values())
