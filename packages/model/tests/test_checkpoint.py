"""A folder opens as a checkpoint, or is refused in one line that names the file and the remedy."""

import json
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


def test_a_folder_is_opened_with_its_config_and_the_names_of_its_tensors(folder: Path, model: GPT2) -> None:
    checkpoint = open_checkpoint(str(folder))
    assert (checkpoint.source, checkpoint.folder, checkpoint.revision) == (str(folder), folder, None)
    assert checkpoint.config["n_embd"] == 12
    assert checkpoint.tensors.keys() == stored_tensors(model).keys()


def test_a_tensor_requested_twice_is_mapped_once(folder: Path) -> None:
    wte = open_checkpoint(folder).tensors["transformer.wte.weight"]
    assert wte().data_ptr() == wte().data_ptr()


@pytest.mark.parametrize("source", ["no/such/folder", "./gone", "/gone", "two words", "a:b", "a\0b"])
def test_a_source_that_is_neither_folder_nor_repository_name_is_refused_without_the_network(source: str) -> None:
    assert refusal(SourceError, source).startswith(f"{source} is neither a folder nor the name of a repository")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("model.safetensors", "is one file of a checkpoint; name its folder, {folder}"),
        ("config.json", "is one file of a checkpoint; name its folder, {folder}"),
        ("ckpt.pt", "is one file of a checkpoint; name its folder, {folder}"),
        ("gpt2.Q4_K_M.gguf", "is a GGUF file, llama.cpp's format; name the folder of the checkpoint"),
        ("gpt2.zip", "is a file; name a checkpoint's folder, with config.json and model.safetensors"),
    ],
)
def test_a_file_is_refused_as_a_source(folder: Path, name: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).touch()
    assert refusal(SourceError, folder / name).startswith(f"{folder / name} {remedy.format(folder=folder)}")
    monkeypatch.chdir(folder)
    assert refusal(SourceError, name).startswith(f"{name} {remedy.format(folder='.')}")


def test_a_revision_of_a_folder_is_refused(folder: Path) -> None:
    assert "revision is 'main', but" in refusal(SourceError, folder, revision="main")


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
def test_a_config_that_is_not_a_json_object_is_refused(folder: Path, content: bytes, complaint: str) -> None:
    (folder / "config.json").write_bytes(content)
    assert refusal(ConfigError, folder).startswith(f"{folder / 'config.json'} {complaint}")


def test_a_config_that_is_a_folder_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert "config.json is a folder, not a plain file" in refusal(SourceError, folder)


def test_a_folder_without_weights_is_refused(bare: Path) -> None:
    message = refusal(SourceError, bare)
    assert message == f"{bare} has no model.safetensors, sharded or whole; is it a checkpoint's folder?"


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("tf_model.h5", "TensorFlow weights; transformers 4 reads them"),
        ("flax_model.msgpack", "Flax weights; transformers 4 reads them"),
        ("rust_model.ot", "name the checkpoint they were made from"),
        ("gpt2.Q4_K_M.gguf", "GGUF, llama.cpp's format; name the checkpoint it was made from"),
        ("model.onnx", "an exported graph; name the checkpoint it was made from"),
        ("zero_to_fp32.py", "a DeepSpeed checkpoint; run its zero_to_fp32.py on it first"),
        (".metadata", "torch.distributed.checkpoint.format_utils dcp_to_torch"),
        ("__0_0.distcp", "torch.distributed.checkpoint.format_utils dcp_to_torch"),
        ("gpt2_124M.bin", "convert it with llm.c's dev/eval/export_hf.py"),
        ("model_00019560.bin", "convert it with llm.c's dev/eval/export_hf.py"),
        ("weights.npz", "save the model with save_pretrained"),
        ("model.fp16.safetensors", "if it holds the whole model, rename it to model.safetensors"),
        ("epoch=3-step=100.ckpt", "if it holds the model, rename it to pytorch_model.bin"),
        ("adapter_model.safetensors", "merge it into its base model first"),
        ("adapter_model.bin", "merge it into its base model first"),
        ("model.ckpt.index", "its converted weights are the Hub's openai-community/gpt2"),
        ("hparams.json", "its converted weights are the Hub's openai-community/gpt2"),
        ("adapter_config.json", "merge it into its base model first"),
    ],
)
@pytest.mark.parametrize("with_config", [True, False], ids=["with config.json", "without"])
def test_weights_in_another_format_are_refused_with_the_remedy(
    bare: Path, file: str, remedy: str, with_config: bool
) -> None:
    (bare / file).touch()
    if not with_config:  # like OpenAI's own checkpoint and an adapter
        (bare / "config.json").unlink()
    message = refusal(SourceError, bare)
    assert file in message
    assert remedy in message


@pytest.mark.parametrize("name", ["global_step500", "pytorch_model_fsdp_0", "onnx"])
def test_folders_that_other_programs_leave_are_named_with_the_remedy(bare: Path, name: str) -> None:
    (bare / name).mkdir()
    message = refusal(SourceError, bare)
    assert f"it has {name}: " in message
    assert "; " in message.partition(f"it has {name}: ")[2]


@pytest.mark.parametrize("steps", [[500], [500, 1500, 1000], [9, 10, 100]])
@pytest.mark.parametrize("beside", [(), ("training_args.bin", "trainer_state.json", "optimizer.pt")])
def test_a_trainers_output_is_refused_naming_its_newest_checkpoint(
    bare: Path, steps: list[int], beside: tuple[str, ...]
) -> None:
    for name in beside:
        (bare / name).touch()
    for step in steps:
        (bare / f"checkpoint-{step}").mkdir()
    (bare / "checkpoint-best").mkdir()
    newest = f"checkpoint-{max(steps)}"
    assert refusal(SourceError, bare).endswith(
        f"it is a trainer's output, its newest checkpoint is {newest}; name that folder"
    )


def test_a_repository_in_the_hubs_cache_is_named_with_its_snapshots(bare: Path) -> None:
    for name in ("snapshots", "blobs", "refs"):
        (bare / name).mkdir()
    assert refusal(SourceError, bare).endswith("name the repository, or a commit's folder in its snapshots")


def test_a_trainers_output_with_weights_of_its_own_is_read(folder: Path) -> None:
    (folder / "checkpoint-500").mkdir()
    (folder / "training_args.bin").touch()
    assert open_checkpoint(folder).tensors


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_beside_whole_weights_is_refused_because_transformers_would_apply_it(
    folder: Path, file: str
) -> None:
    (folder / file).touch()
    message = refusal(SourceError, folder)
    assert f"it has {file}: a LoRA adapter" in message
    assert message.endswith("or remove it if it is merged already")


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
    "a page of HTML": b"<!doctype html><title>Not found</title>",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_is_not_a_whole_safetensors_file_is_refused_by_name(bare: Path, content: bytes) -> None:
    file = bare / "model.safetensors"
    file.write_bytes(content)
    message = refusal(WeightFileError, bare)
    assert message.startswith(f"{file} ({len(content)} bytes) is not a whole safetensors file: ")
    assert message.endswith("; download it again")


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.999])
def test_a_download_that_was_cut_short_is_refused(folder: Path, fraction: float) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * fraction)])
    assert refusal(WeightFileError, folder).startswith(f"{file} ")


def test_a_dtype_that_torch_does_not_have_is_refused(bare: Path) -> None:
    (bare / "config.json").write_text('{"model_type": "gpt2", "n_layer": 1}')
    header = {"transformer.wte.weight": {"dtype": "F6_E2M3", "shape": [50257, 768], "data_offsets": [0, 28948032]}}
    (bare / "model.safetensors").write_bytes(safetensors(header, bytes(28948032)))
    with pytest.raises(CheckpointError, match=r"model\.safetensors|wte\.weight"):
        load(bare)


def test_weights_that_are_a_folder_are_refused(bare: Path) -> None:
    (bare / "model.safetensors").mkdir()
    assert refusal(SourceError, bare).startswith(f"{bare / 'model.safetensors'} is a folder, not a plain file")


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


def test_every_missing_shard_is_named(bare: Path) -> None:
    write_index(bare, {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"})
    message = refusal(WeightFileError, bare)
    assert "names model-1.safetensors, model-2.safetensors, which" in message


def test_a_shard_that_lacks_a_tensor_of_its_index_is_refused(bare: Path) -> None:
    write_index(bare, {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-1.safetensors"})
    save_file({"a": torch.ones(2)}, bare / "model-1.safetensors")
    assert "model-1.safetensors lacks b, c, which its index lists" in refusal(WeightFileError, bare)


def test_a_tensor_in_two_shards_is_refused(bare: Path) -> None:
    write_index(bare, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    save_file({"a": torch.ones(2)}, bare / "model-1.safetensors")
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, bare / "model-2.safetensors")
    assert "model-2.safetensors holds a, which another file" in refusal(WeightFileError, bare)


def test_an_empty_source_does_not_mean_the_current_folder() -> None:
    with pytest.raises(SourceError, match="the source is empty"):
        open_checkpoint("")
