"""A folder is opened as a checkpoint, or refused in one line that names the file and the remedy."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpt2_model import GPT2, CheckpointError, ConfigError, SourceError, WeightFileError
from gpt2_model.checkpoint import open_checkpoint
from gpt2_model.weights import load, stored_tensors
from safetensors.torch import save_file

MakeModel = Callable[..., GPT2]
MakeFolder = Callable[..., Path]
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.fixture
def folder(model: GPT2, make_folder: MakeFolder) -> Path:
    return make_folder(model)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder that has a config.json, and no weights yet."""
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    return bare


def refusal(kind: type[Exception], source: str | Path, **options: Any) -> str:
    """The message, which is one line."""
    with pytest.raises(kind) as caught:
        open_checkpoint(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_is_opened_with_its_config_and_the_names_of_its_tensors(folder: Path, model: GPT2) -> None:
    checkpoint = open_checkpoint(str(folder))
    assert (checkpoint.source, checkpoint.folder, checkpoint.revision) == (str(folder), folder, None)
    assert checkpoint.config["n_embd"] == 12
    assert checkpoint.tensors.keys() == stored_tensors(model).keys()


def test_a_tensor_that_is_asked_for_twice_is_mapped_once(folder: Path) -> None:
    wte = open_checkpoint(folder).tensors["transformer.wte.weight"]
    assert wte().data_ptr() == wte().data_ptr()


@pytest.mark.parametrize("source", ["no/such/folder", "./gone", "/gone", "two words", "a:b"])
def test_what_is_neither_a_folder_nor_a_repositorys_name_is_refused_without_the_network(source: str) -> None:
    assert refusal(SourceError, source).startswith(f"{source} is neither a folder nor the name of a repository")


def test_a_file_is_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert "model.safetensors is neither a folder nor" in refusal(SourceError, "model.safetensors")


def test_a_revision_of_a_folder_is_refused(folder: Path) -> None:
    assert "'main' was asked for, but" in refusal(SourceError, folder, revision="main")


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert refusal(SourceError, folder) == f"{folder} has no config.json; a checkpoint is a folder with one"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not valid JSON"),
        (b'{"model_type": "gpt2"', "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[]", "holds a JSON list"),
        (b"7", "holds a JSON int"),
        (b"[" * 100_000, "is not valid JSON"),
    ],
    ids=["empty", "cut short", "not UTF-8", "list", "number", "deep"],
)
def test_a_config_that_is_no_json_object_is_refused(folder: Path, content: bytes, complaint: str) -> None:
    (folder / "config.json").write_bytes(content)
    assert refusal(ConfigError, folder).startswith(f"{folder / 'config.json'} {complaint}")


def test_a_config_that_is_a_folder_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert "config.json cannot be read: Is a directory" in refusal(SourceError, folder)


def test_a_folder_without_weights_is_refused(bare: Path) -> None:
    message = refusal(SourceError, bare)
    assert message == f"{bare} has no model.safetensors, sharded or whole; is it a checkpoint's folder?"


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("tf_model.h5", "TensorFlow weights"),
        ("flax_model.msgpack", "Flax weights"),
        ("model.ckpt.index", "its converted weights are the hub's openai-community/gpt2"),
        ("hparams.json", "its converted weights are the hub's openai-community/gpt2"),
        ("adapter_config.json", "merge it into its base model first"),
    ],
)
@pytest.mark.parametrize("with_config", [True, False], ids=["with config.json", "without"])
def test_weights_of_another_kind_are_refused_with_the_remedy(
    bare: Path, file: str, remedy: str, with_config: bool
) -> None:
    (bare / file).touch()
    if not with_config:  # as OpenAI's own checkpoint and an adapter are
        (bare / "config.json").unlink()
    message = refusal(SourceError, bare)
    assert file in message
    assert remedy in message


def safetensors(header: object, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


HOSTILE = {
    "empty": b"",
    "shorter than a header's length": b"\x02\x00",
    "header length beyond the file": struct.pack("<Q", 10**6) + b"{}",
    "header length beyond any memory": struct.pack("<Q", 2**63) + b"{}",
    "header is not JSON": safetensors(b"no json!"),
    "header is not UTF-8": safetensors(b'{"\xff": 1}'),
    "header is a list": safetensors([1, 2]),
    "header is deep": safetensors(b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    "offsets overlap": safetensors({"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, bytes(12)),
    "offsets beyond the file": safetensors({"a": F32 | {"data_offsets": [0, 8]}}, bytes(4)),
    "offsets backwards": safetensors({"a": F32 | {"data_offsets": [8, 0]}}, bytes(8)),
    "offsets negative": safetensors({"a": F32 | {"data_offsets": [-8, 0]}}, bytes(8)),
    "bytes that belong to no tensor": safetensors({"a": F32}, bytes(12)),
    "shape larger than its bytes": safetensors({"a": F32 | {"shape": [3]}}, bytes(8)),
    "shape that overflows": safetensors({"a": F32 | {"shape": [2**62, 4, 4]}}, bytes(8)),
    "type that does not exist": safetensors({"a": F32 | {"dtype": "F33"}}, bytes(8)),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 548105171\n",
    "a page of HTML": b"<!doctype html><title>Not found</title>",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_is_no_whole_safetensors_file_is_refused_by_name(bare: Path, content: bytes) -> None:
    file = bare / "model.safetensors"
    file.write_bytes(content)
    message = refusal(WeightFileError, bare)
    assert message.startswith(f"{file} ({len(content)} bytes) is not a whole safetensors file: ")
    assert message.endswith("; download it again")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_download_that_was_cut_short_is_refused(folder: Path, kept: float) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    assert refusal(WeightFileError, folder).startswith(f"{file} ")


def test_a_type_of_number_that_torch_cannot_hold_is_refused(bare: Path) -> None:
    (bare / "config.json").write_text('{"model_type": "gpt2", "n_layer": 1}')
    header = {"transformer.wte.weight": {"dtype": "F6_E2M3", "shape": [50257, 768], "data_offsets": [0, 28948032]}}
    (bare / "model.safetensors").write_bytes(safetensors(header, bytes(28948032)))
    with pytest.raises(CheckpointError, match=r"model\.safetensors|wte\.weight"):
        load(bare)


def test_weights_that_are_a_folder_are_refused(bare: Path) -> None:
    (bare / "model.safetensors").mkdir()
    assert "model.safetensors cannot be read" in refusal(WeightFileError, bare)


def write_index(bare: Path, weight_map: object) -> Path:
    index = bare / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


@pytest.mark.parametrize("weight_map", [None, {}, [], "x"])
def test_an_index_without_weight_map_is_refused(bare: Path, weight_map: object) -> None:
    index = write_index(bare, weight_map)
    assert refusal(WeightFileError, bare).startswith(f"{index} has no weight_map")


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", 7])
def test_an_index_that_leaves_its_folder_is_refused(bare: Path, file: object) -> None:
    write_index(bare, {"transformer.wte.weight": file})
    message = refusal(WeightFileError, bare)
    assert f"transformer.wte.weight is in {file!r}" in message


def test_an_index_of_safetensors_cannot_smuggle_in_a_pickle(bare: Path) -> None:
    torch.save({"a": torch.ones(2)}, bare / "weights.bin")
    write_index(bare, {"a": "weights.bin"})
    assert "weights.bin" in refusal(WeightFileError, bare)


def test_every_shard_that_is_not_there_is_named(bare: Path) -> None:
    write_index(bare, {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"})
    message = refusal(WeightFileError, bare)
    assert "names model-1.safetensors, model-2.safetensors, which" in message


def test_a_shard_that_lacks_what_its_index_promises_is_refused(bare: Path) -> None:
    write_index(bare, {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-1.safetensors"})
    save_file({"a": torch.ones(2)}, bare / "model-1.safetensors")
    assert "model-1.safetensors lacks b, c, which its index promises" in refusal(WeightFileError, bare)


def test_a_tensor_in_two_shards_is_refused(bare: Path) -> None:
    write_index(bare, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    save_file({"a": torch.ones(2)}, bare / "model-1.safetensors")
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, bare / "model-2.safetensors")
    assert "model-2.safetensors holds a, which another file" in refusal(WeightFileError, bare)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "the format of 2019"])
def test_a_pickle_is_refused_without_leave_and_loads_exactly_with_it(
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


def test_a_sharded_pickle_loads_exactly_with_leave(model: GPT2, make_folder: MakeFolder) -> None:
    folder = make_folder(model)
    (folder / "model.safetensors").unlink()
    tensors = {name: tensor.float() for name, tensor in stored_tensors(model).items()}
    names = list(tensors)
    shards = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for file, held in shards.items():
        torch.save({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "only as a pickle" in refusal(SourceError, folder)
    loaded = stored_tensors(load(folder, allow_pickle=True))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_safetensors_are_read_where_there_is_a_pickle_too(folder: Path) -> None:
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
    assert message.startswith(f"{bare / 'pytorch_model.bin'} cannot be loaded as weights alone: ")
    assert not crater.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nonsense", b"\x80\x02."])
def test_a_damaged_pickle_is_refused(bare: Path, content: bytes) -> None:
    (bare / "pytorch_model.bin").write_bytes(content)
    assert refusal(WeightFileError, bare, allow_pickle=True).startswith(
        f"{bare / 'pytorch_model.bin'} cannot be loaded"
    )


@pytest.mark.parametrize("content", [[torch.ones(2)], {"a": 1}, {"model": {"a": torch.ones(2)}}])
def test_a_pickle_of_something_else_than_a_table_of_tensors_is_refused(bare: Path, content: object) -> None:
    torch.save(content, bare / "pytorch_model.bin")
    assert "something else than a table of tensors" in refusal(WeightFileError, bare, allow_pickle=True)


ODD = {
    "sparse_coo": lambda: torch.eye(4).to_sparse(),
    "sparse_csr": lambda: torch.eye(4).to_sparse_csr(),
    "sparse_bsc": lambda: torch.eye(4).to_sparse_bsc((2, 2)),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "meta": lambda: torch.ones(2, device="meta"),
}


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("form", ODD)
def test_a_tensor_that_is_no_plain_array_is_refused_by_name(
    model: GPT2, make_folder: MakeFolder, tmp_path: Path, form: str
) -> None:
    folder = make_folder(model)
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save(stored_tensors(model) | {"transformer.ln_f.bias": ODD[form]()}, file)
    assert refusal(WeightFileError, folder, allow_pickle=True) == (
        f"{file} holds transformer.ln_f.bias ({form}), only dense tensors with numbers are read; "
        "save it with those (to_dense)"
    )


def test_an_empty_source_is_not_the_folder_that_one_is_in() -> None:
    with pytest.raises(SourceError, match="the source is empty"):
        open_checkpoint("")
