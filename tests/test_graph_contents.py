"""The runtime opens every graph that export can write: their operator tables and their readers agree."""

from itertools import chain
from pathlib import Path

import onnx
import pytest
from gpt2_export.graphs.kinds import KINDS
from gpt2_export.precision.precision import PRECISIONS
from gpt2_runtime.graphs import onnx_file
from gpt2_runtime.graphs.graph_contents import OF_PRECISION, OPERATORS
from gpt2_runtime.graphs.onnx_file import MOST_CONSTANT_BYTES, OnnxFile

TINY = Path(__file__).parents[1] / "packages" / "runtime" / "tests" / "data" / "tiny"


def test_every_operator_that_is_written_may_be_read() -> None:
    for kind in KINDS:
        assert kind.operators <= OPERATORS[kind.name], kind.name
    assert set(OF_PRECISION) == {"fp32", *PRECISIONS}
    for name, precision in PRECISIONS.items():
        for kind in (kind for kind in KINDS if not kind.float32_only):
            assert precision.operators <= OPERATORS[kind.name] | OF_PRECISION[name], (kind.name, name)


def test_no_operator_that_runs_a_graph_of_its_own_may_be_read() -> None:
    """Nor one that allocates memory from a number, or samples."""
    may = frozenset(chain(*OPERATORS.values(), *OF_PRECISION.values()))
    assert not may & {"Loop", "If", "Scan", "SequenceMap", "ConstantOfShape", "Tile", "Pad", "Resize", "RandomNormal"}


@pytest.mark.parametrize("path", sorted(TINY.glob("*.onnx")), ids=lambda path: path.name)
def test_a_graph_is_read_as_onnx_reads_it(path: Path) -> None:
    model, file = onnx.load(path, load_external_data=False), OnnxFile.read(path.name, path.read_bytes())
    operators = {f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph.node}
    assert file.operators == operators
    assert file.domains == {opset.domain for opset in model.opset_import}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    assert set(file.initializers) == set(tensors)
    for name, tensor in tensors.items():
        one, places = file.initializers[name], {entry.key: entry.value for entry in tensor.external_data}
        assert one.shape == tuple(tensor.dims)
        assert one.type == onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        if places:
            assert (one.location, str(one.offset), str(one.bytes)) == tuple(places.values())
        else:
            assert one.bytes <= MOST_CONSTANT_BYTES


@pytest.mark.parametrize("table", ["MODEL", "GRAPH", "NODE", "ATTRIBUTE", "TENSOR", "VALUE", "TYPE", "TENSOR_TYPE"])
def test_the_numbers_of_fields_are_those_of_onnx(table: str) -> None:
    messages = {
        "MODEL": onnx.ModelProto,
        "GRAPH": onnx.GraphProto,
        "NODE": onnx.NodeProto,
        "ATTRIBUTE": onnx.AttributeProto,
        "TENSOR": onnx.TensorProto,
        "VALUE": onnx.ValueInfoProto,
        "TYPE": onnx.TypeProto,
        "TENSOR_TYPE": onnx.TypeProto.Tensor,
    }
    numbers = {field.number: field.name for field in messages[table].DESCRIPTOR.fields}
    for number, name in getattr(onnx_file, table).items():
        assert numbers[number] == name
