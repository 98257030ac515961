"""Every bad input gives one line that says what and where, exit code 1, and leaves nothing at OUT."""

import json
import pickle
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from gpt2_model import GPT2
from gpt2_model.weights import stored_tensors
from safetensors.torch import save_file
from torch import Tensor

Run = Callable[..., Result]
Refusal = Callable[..., str]
MakeCheckpoint = Callable[..., Path]


@pytest.fixture
def refused(refusal: Refusal, tmp_path: Path) -> Refusal:
    """The message of a freeze that must fail and leave nothing behind."""

    def refused(source: str | Path, *options: str) -> str:
        place = tmp_path / "place"
        place.mkdir()
        message = refusal("freeze", source, place / "out", *options)
        assert list(place.iterdir()) == []
        return message

    return refused


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with a config.json and no weights."""
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    return folder


@pytest.fixture
def checkpoint(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "checkpoint"))


def test_a_source_that_is_absent(refused: Refusal, tmp_path: Path) -> None:
    assert refused(tmp_path / "gone") == (
        f"{tmp_path}/gone is neither a folder nor the name of a repository on the Hub"
    )


def test_a_source_that_is_a_file(refused: Refusal, source: Path) -> None:
    message = refused(source / "model.safetensors")
    assert message == f"{source}/model.safetensors is one file of a checkpoint; name its folder, {source}"


def test_a_source_that_is_empty(refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty") == (
        f"{tmp_path}/empty has no model.safetensors, sharded or whole; is it a checkpoint's folder?"
    )


def test_a_source_without_weights(refused: Refusal, bare: Path) -> None:
    assert refused(bare) == f"{bare} has no model.safetensors, sharded or whole; is it a checkpoint's folder?"


def test_weights_that_are_only_a_pickle(refused: Refusal, bare: Path) -> None:
    torch.save({}, bare / "pytorch_model.bin")
    assert refused(bare).endswith("allow it with allow_pickle (--allow-pickle) if you trust its author")


def test_a_pickle_that_would_run_code_is_not_said_to_be_safe_to_run(refused: Refusal, bare: Path) -> None:
    (bare / "pytorch_model.bin").write_bytes(pickle.dumps({"a": print}, protocol=2))
    message = refused(bare, "--allow-pickle")
    assert "pytorch_model.bin cannot be loaded as weights only" in message
    assert "set to `False` will likely succeed" not in message


def test_a_pickle_that_an_index_of_safetensors_names(refused: Refusal, bare: Path, tmp_path: Path) -> None:
    torch.save({"wte.weight": torch.zeros(2)}, bare / "weights.bin")
    (bare / "model.safetensors.index.json").write_text('{"weight_map": {"wte.weight": "weights.bin"}}')
    assert "weights.bin" in refused(bare)  # the name is refused, not the content


@pytest.mark.parametrize("with_config", [True, False])
def test_openais_own_checkpoint_is_named_with_the_place_of_its_converted_weights(
    refused: Refusal, bare: Path, with_config: bool
) -> None:
    for name in ("checkpoint", "encoder.json", "hparams.json", "model.ckpt.index", "model.ckpt.meta", "vocab.bpe"):
        (bare / name).write_text("{}")
    if not with_config:
        (bare / "config.json").unlink()  # as OpenAI's program downloads it
    message = refused(bare)
    assert "OpenAI's own TensorFlow checkpoint" in message
    assert "openai-community/gpt2" in message


SANTACODER = {
    "attention_head_type": "multiquery",
    "architectures": ["GPT2LMHeadCustomModel"],
    "auto_map": {"AutoConfig": "configuration_gpt2_mq.GPT2CustomConfig"},
}


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (SANTACODER, "config.json: attention_head_type is 'multiquery', only 'multihead' is computed here"),
        ({"add_cross_attention": True}, "config.json: add_cross_attention is True, only False is computed here"),
        ({"model_type": "llama"}, "config.json: model_type is 'llama', only 'gpt2' is computed here"),
        ({"mystery": 3}, "config.json: mystery is unknown (3); if no logit depends on it, pass ignore="),
        ({"mystery": 3}, "(--ignore-config mystery)"),
        ({"n_layer": "2"}, "n_layer is '2'; it must be a whole number from 1 to below"),
        ({"n_head": 0}, "n_head is 0; it must be a whole number from 1 to below"),
        ({"vocab_size": 10**30}, "vocab_size"),
        ({"activation_function": {}}, "activation_function is {}; known are gelu_new"),
        ({"n_head": 3}, "n_embd is 16, not a multiple of n_head, 3"),
        ({"n_embd": 32}, "config.json says n_embd 32, the tensors 16"),
        ({"n_embd": 10**9, "n_head": 1}, "config.json says n_embd 1000000000, the tensors 16"),
        ({"quantization_config": {"load_in_8bit": True}}, "the weights are quantized"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_config_that_is_not_supported(
    refused: Refusal, make_checkpoint: MakeCheckpoint, config: dict[str, Any], complaint: str
) -> None:
    assert complaint in refused(make_checkpoint(config=config))


def test_an_unknown_field_passes_if_it_is_ignored(run: Run, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    folder = make_checkpoint(config={"mystery": 3, "riddle": 4})
    ran = run("freeze", folder, tmp_path / "out", "--ignore-config", "mystery", "--ignore-config", "riddle")
    assert ran.exit_code == 0


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"a"', "config.json is not valid JSON: Expecting ':' delimiter"),
        (b"", "config.json is not valid JSON"),
        (b"\xff\xfe", "config.json is not valid JSON"),
        (b"[1]", "config.json holds a JSON list; it must be an object"),
        (b"null", "config.json holds a JSON NoneType; it must be an object"),
        (b"[" * 100_000, "config.json is not valid JSON"),
    ],
)
def test_a_config_that_is_not_an_object(refused: Refusal, checkpoint: Path, content: bytes, complaint: str) -> None:
    (checkpoint / "config.json").write_bytes(content)
    assert complaint in refused(checkpoint)


def test_tensors_that_do_not_fit_are_named_at_once(
    refused: Refusal, make_checkpoint: MakeCheckpoint, model: GPT2
) -> None:
    tensors = dict(stored_tensors(model))
    del tensors["transformer.ln_f.weight"]
    tensors["transformer.wpe.weight"] = torch.zeros(3, 4)
    tensors["transformer.h.0.ln_1.bias"] = torch.zeros(16, dtype=torch.int64)
    tensors |= {"transformer.h.2.ln_1.bias": torch.zeros(16), "scores.weight": torch.zeros(16)}
    folder = make_checkpoint(tensors=tensors)
    assert refused(folder) == (
        f"{folder}: 5 tensors do not fit: config.json says n_positions 24, the tensors 3; "
        "config.json says n_layer 2, the tensors 3; missing ln_f.weight; "
        "unexpected scores.weight; unexpected transformer.h.2.ln_1.bias; "
        "transformer.wpe.weight has shape [3, 4], config.json says [24, 16]; "
        "transformer.h.0.ln_1.bias is int64, only float64, float32, float16, bfloat16 are read"
    )


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weights_that_are_not_finite(
    refused: Refusal, make_checkpoint: MakeCheckpoint, model: GPT2, value: str
) -> None:
    tensors: dict[str, Tensor] = {name: tensor.clone() for name, tensor in stored_tensors(model).items()}
    tensors["transformer.h.1.ln_2.bias"][5] = float(value)
    message = refused(make_checkpoint(tensors=tensors))
    assert "transformer.h.1.ln_2.bias has 1 of 16 values NaN or infinite" in message


def header(entries: dict[str, Any], body: int = 16) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(body)


def entry(begin: int, end: int, **changed: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]} | changed


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 1000) + b"{}",
        struct.pack("<Q", 4) + b"nope",
        header({"a": entry(0, 8), "b": entry(4, 16)}),
        header({"a": entry(0, 8), "b": entry(10**12, 10**12 + 8)}),
        header({"a": entry(8, 16)}),
        header({"a": entry(0, 16)}, body=8),
        header({"a": entry(0, 16, shape=[2**40, 2**40])}),
        header({"a": entry(0, 16, dtype="F1024")}),
        header({"a": entry(0, 16, data_offsets=[16, 0])}),
        header({"a": 3}),
    ],
    ids=[
        "empty", "three bytes", "header of 4 EiB", "header beyond the file", "header is not JSON", "overlapping",
        "out of range", "hole", "truncated", "overflowing shape", "unknown type", "backwards", "number",
    ],
)  # fmt: skip
def test_a_hostile_file_of_weights(refused: Refusal, checkpoint: Path, content: bytes) -> None:
    (checkpoint / "model.safetensors").write_bytes(content)
    message = refused(checkpoint)
    assert message.startswith(f"{checkpoint}/model.safetensors ({len(content)} bytes) is not a whole safetensors file:")
    assert message.endswith("; download it again")


def test_a_shard_that_is_truncated_is_named(refused: Refusal, checkpoint: Path, model: GPT2) -> None:
    (checkpoint / "model.safetensors").unlink()
    shards = {name: f"model-{number:05}-of-00028.safetensors" for number, name in enumerate(stored_tensors(model), 1)}
    for name, tensor in stored_tensors(model).items():
        save_file({name: tensor}, checkpoint / shards[name])
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    third = checkpoint / "model-00003-of-00028.safetensors"
    third.write_bytes(third.read_bytes()[:-1])
    assert f"{third} (" in refused(checkpoint)


def test_a_revision_of_a_folder(refused: Refusal, source: Path) -> None:
    assert "revision is 'main', but" in refused(source, "--revision", "main")


def test_out_inside_a_file(refusal: Refusal, source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert refusal("freeze", source, tmp_path / "file" / "out").endswith("file: Not a directory")


def test_out_that_is_the_source_or_holds_it(refusal: Refusal, checkpoint: Path) -> None:
    for out in (checkpoint, checkpoint.parent):
        assert refusal("freeze", checkpoint, out, "--force") == (
            f"{out} is the checkpoint itself, or contains it; choose another OUT"
        )
    assert (checkpoint / "model.safetensors").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 KB."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(tmp_path / "disk")]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_a_disk_that_is_too_small(refusal: Refusal, source: Path, small_disk: Path) -> None:
    message = refusal("freeze", source, small_disk / "out")
    assert "out needs about 16,0" in message
    assert f"{small_disk} has 32,768; free some, or write elsewhere" in message
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile(
    refusal: Refusal, source: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**12))
    assert refusal("freeze", source, small_disk / "out") == (
        f"no space left for {small_disk}/out; free some, or write elsewhere"
    )
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_is_read_only(
    refusal: Refusal, source: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**12))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "Read-only file system" in refusal("freeze", source, small_disk / "out")
