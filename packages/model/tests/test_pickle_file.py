"""Pickles of tensors: refused unless allowed, never executed, and read from any trainer's wrapping."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpt2_model import GPT2, CheckpointWarning, SourceError, WeightFileError
from gpt2_model.checkpoint import open_checkpoint
from gpt2_model.weights import load, stored_tensors

MakeFolder = Callable[..., Path]


@pytest.fixture
def folder(model: GPT2, make_folder: MakeFolder) -> Path:
    return make_folder(model)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with a config.json and no weights yet."""
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    return bare


def refusal(kind: type[Exception], source: str | Path, **options: Any) -> str:
    """The error message, checked to be one line."""
    with pytest.raises(kind) as caught:
        open_checkpoint(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "the format of 2019"])
def test_a_pickle_is_refused_unless_allowed_and_then_loads_exactly(
    model: GPT2, make_folder: MakeFolder, zipped: bool
) -> None:
    folder = make_folder(model)
    (folder / "model.safetensors").unlink()
    tensors = {name: tensor.float() for name, tensor in stored_tensors(model).items()}
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    message = refusal(SourceError, folder)
    assert "only as a pickle, pytorch_model.bin, which can run code" in message
    assert "--allow-pickle" in message
    loaded = stored_tensors(load(folder, allow_pickle=True))
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_sharded_pickle_loads_exactly_if_allowed(model: GPT2, make_folder: MakeFolder) -> None:
    folder = make_folder(model)
    (folder / "model.safetensors").unlink()
    tensors = {name: tensor.float() for name, tensor in stored_tensors(model).items()}
    names = list(tensors)
    shards = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for file, group in shards.items():
        torch.save({name: tensors[name] for name in group}, folder / file)
    weight_map = {name: file for file, group in shards.items() for name in group}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "only as a pickle" in refusal(SourceError, folder)
    loaded = stored_tensors(load(folder, allow_pickle=True))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_safetensors_are_preferred_to_a_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert open_checkpoint(folder, allow_pickle=True).tensors


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.crater,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "the format of 2019"])
def test_a_malicious_pickle_is_refused_and_does_not_run(bare: Path, tmp_path: Path, zipped: bool) -> None:
    crater = tmp_path / "crater"
    content = {"transformer.wte.weight": Bomb(crater)}
    pickle.loads(pickle.dumps(content))
    assert crater.exists(), "the bomb must work, or this test proves nothing"
    crater.unlink()
    torch.save(content, bare / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    message = refusal(WeightFileError, bare, allow_pickle=True)
    assert message.startswith(f"{bare / 'pytorch_model.bin'} cannot be loaded as weights only: ")
    assert not crater.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nonsense", b"\x80\x02."])
def test_a_damaged_pickle_is_refused(bare: Path, content: bytes) -> None:
    (bare / "pytorch_model.bin").write_bytes(content)
    assert refusal(WeightFileError, bare, allow_pickle=True).startswith(
        f"{bare / 'pytorch_model.bin'} cannot be loaded"
    )


@pytest.mark.parametrize("content", [[torch.ones(2)], {"a": 1}, {"model": {"a": 1}}, 7])
def test_a_pickle_that_is_not_a_state_dict_is_refused(bare: Path, content: object) -> None:
    torch.save(content, bare / "pytorch_model.bin")
    assert "is not a state dict" in refusal(WeightFileError, bare, allow_pickle=True)


ODD = {
    "expanded": lambda: torch.ones(1).expand(10**12),  # four bytes that would fill any memory
    "sparse_coo": lambda: torch.eye(4).to_sparse(),
    "sparse_csr": lambda: torch.eye(4).to_sparse_csr(),
    "sparse_bsc": lambda: torch.eye(4).to_sparse_bsc((2, 2)),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "meta": lambda: torch.ones(2, device="meta"),
}


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("form", ODD)
def test_a_tensor_that_is_not_a_plain_array_is_refused_by_name(
    model: GPT2, make_folder: MakeFolder, tmp_path: Path, form: str
) -> None:
    folder = make_folder(model)
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save(stored_tensors(model) | {"transformer.ln_f.bias": ODD[form]()}, file)
    assert refusal(WeightFileError, folder, allow_pickle=True) == (
        f"{file} holds transformer.ln_f.bias ({form}), only dense tensors of numbers are read; "
        "save it with those (to_dense)"
    )


WRAPPED = {
    "state_dict": lambda tensors: {"state_dict": tensors, "epoch": 3, "global_step": 7},
    "model": lambda tensors: {"model": tensors, "optimizer": {"state": {0: {"step": torch.tensor(3)}}}},
    "model_state_dict": lambda tensors: {"epoch": 1, "model_state_dict": tensors, "loss": 2.5},
    "module": lambda tensors: {"module": tensors, "ds_version": "0.14", "lr_scheduler": None},
    "state_dict.model": lambda tensors: {"state_dict": {"model": tensors}},
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "the format of 2019"])
def test_a_state_dict_is_read_from_a_trainers_wrapping_and_the_rest_is_reported(
    model: GPT2, make_folder: MakeFolder, wrapper: str, zipped: bool
) -> None:
    folder = make_folder(model)
    (folder / "model.safetensors").unlink()
    tensors = {name: tensor.float() for name, tensor in stored_tensors(model).items()}
    content = WRAPPED[wrapper](tensors)
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.warns(CheckpointWarning, match=f"the weights were read from {wrapper}") as caught:
        loaded = stored_tensors(load(folder, allow_pickle=True))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    (message,) = [str(each.message) for each in caught]
    beside = content.keys() - set(wrapper.split("."))
    assert all(name in message for name in beside)
    assert ("left out" in message) == bool(beside)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"weights": {"a": torch.ones(1)}}, "is not a state dict (it holds weights)"),
        ({f"key{i}": i for i in range(1000)}, "(it holds key0, key1, key2 and 997 more)"),
        (
            {"model": {"a": torch.ones(1)}, "state_dict": {}},
            "several state dicts, state_dict, model",
        ),
        ({"model": {"model": {"model": {"model": {"a": torch.ones(1)}}}}}, "is not a state dict"),
        ({"model": {"a": torch.ones(1), "b": 3}}, "is not a state dict (it holds a, b)"),
    ],
    ids=["unknown name", "many", "two tables", "too deep", "a number among tensors"],
)
def test_a_pickle_without_one_certain_state_dict_is_refused(bare: Path, content: object, complaint: str) -> None:
    torch.save(content, bare / "pytorch_model.bin")
    message = refusal(WeightFileError, bare, allow_pickle=True)
    assert complaint in message
    assert len(message) < 400


def test_a_pickle_that_contains_itself_is_refused(bare: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, bare / "pytorch_model.bin")
    assert "is not a state dict" in refusal(WeightFileError, bare, allow_pickle=True)
