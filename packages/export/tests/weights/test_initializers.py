"""A weight that does not fit the network is refused by name, whichever graph needs it."""

import re
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
from gpt2_export.errors import FolderError, GraphError
from gpt2_export.graphs import export
from gpt2_export.graphs.export import Kind
from gpt2_export.weights import safetensors_file
from gpt2_export.weights.initializers import refer
from gpt2_model import GPT2, GPT2Config
from safetensors.numpy import load_file

Freeze = Callable[[GPT2, Path], None]
WEIGHTS = "model.safetensors"
CONFIG = GPT2Config(vocab_size=50, n_positions=16, n_embd=24, n_layer=1, n_head=3)


@pytest.fixture(scope="module")
def traced(kind: Kind) -> ir.Model:
    """Tracing takes seconds; every test works on a clone."""
    return export.trace(kind, CONFIG)


@pytest.fixture
def frozen(freeze_network: Freeze, tmp_path: Path) -> Path:
    freeze_network(GPT2(CONFIG), tmp_path)
    return tmp_path


def rewrite(folder: Path, tensors: dict[str, object]) -> None:
    merged = load_file(folder / WEIGHTS) | tensors
    stored = {name: tensor for name, tensor in merged.items() if tensor is not None}
    safetensors_file.write(
        folder / WEIGHTS,
        {name: safetensors_file.Form(tensor.shape) for name, tensor in stored.items()},
        stored.values(),
    )


def test_every_initializer_becomes_a_reference_under_the_files_own_name(traced: ir.Model, frozen: Path) -> None:
    model = traced.clone()
    refer(model, CONFIG, frozen / WEIGHTS)
    stored = load_file(frozen / WEIGHTS)
    weights = {name: v.const_value for name, v in model.graph.initializers.items() if name in stored}
    assert weights.keys() == stored.keys()
    for name, tensor in weights.items():
        assert isinstance(tensor, ir.ExternalTensor)
        assert tuple(tensor.shape) == stored[name].shape


def test_no_weight_is_transposed_by_the_graph(traced: ir.Model, frozen: Path) -> None:
    model = traced.clone()
    refer(model, CONFIG, frozen / WEIGHTS)
    transposed = [node.inputs[0] for node in model.graph if node.op_type == "Transpose"]
    assert not [value.name for value in transposed if value is not None and value.is_initializer()]


def test_a_weight_that_the_file_lacks_is_refused(traced: ir.Model, frozen: Path) -> None:
    rewrite(frozen, {"transformer.h.0.mlp.c_fc.bias": None})
    with pytest.raises(GraphError, match=r"needs transformer\.h\.0\.mlp\.c_fc\.bias, which .* does not have"):
        refer(traced.clone(), CONFIG, frozen / WEIGHTS)


@pytest.mark.parametrize("name", ["transformer.wpe.weight", "transformer.h.0.attn.c_attn.weight"])
def test_a_weight_of_another_shape_is_refused(traced: ir.Model, frozen: Path, name: str) -> None:
    rewrite(frozen, {name: load_file(frozen / WEIGHTS)[name].T.copy()})
    with pytest.raises(GraphError, match=rf"{re.escape(name)} has shape .* not config\.json's"):
        refer(traced.clone(), CONFIG, frozen / WEIGHTS)


def test_a_folder_without_weights_is_refused(traced: ir.Model, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"model\.safetensors is missing"):
        refer(traced.clone(), CONFIG, tmp_path / WEIGHTS)
