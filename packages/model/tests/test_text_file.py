"""A checkpoint's text file is a regular file of a bounded size in UTF-8; anything else is refused at once."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from gpt2_model import GPT2, ConfigError, SourceError
from gpt2_model.checkpoint import open_checkpoint
from gpt2_model.hub import DOCUMENTS
from gpt2_model.text_file import LARGEST_BYTES, read_json

MakeFolder = Callable[..., Path]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 548105171\n"


@pytest.fixture
def folder(model: GPT2, make_folder: MakeFolder) -> Path:
    return make_folder(model)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def directory(path: Path) -> None:
    path.mkdir()


def unix_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


KINDS = {pipe: "a named pipe", device: "a device", directory: "a folder", unix_socket: "a socket"}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "ckpt.pt")


@pytest.mark.filterwarnings("ignore:unclosed")
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", [*DOCUMENTS, *WEIGHTS])
def test_a_file_that_is_not_regular_is_refused_at_once(folder: Path, name: str, make: Callable[[Path], None]) -> None:
    if name in WEIGHTS:
        (folder / "model.safetensors").unlink()
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises(SourceError) as caught:
        open_checkpoint(folder, allow_pickle=True)
    assert str(caught.value) == f"{folder / name} is {KINDS[make]}, not a plain file; put the file itself there"


def test_a_link_to_a_regular_file_is_read(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
    assert open_checkpoint(folder).tensors


@pytest.mark.parametrize("name", [*DOCUMENTS, *WEIGHTS])
def test_a_broken_link_is_refused_as_one(folder: Path, name: str) -> None:
    """As in a snapshot of the Hub's cache copied without its blobs."""
    if name in WEIGHTS:
        (folder / "model.safetensors").unlink()
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("../../blobs/4d7a")
    with pytest.raises(SourceError) as caught:
        open_checkpoint(folder, allow_pickle=True)
    assert str(caught.value) == (
        f"{folder / name} is a link to ../../blobs/4d7a, which is not there; copy the files themselves with `cp -rL`"
    )


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "vocab.json"])
def test_a_file_larger_than_any_real_one_is_not_read(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.truncate(2**40)  # takes no disk space
    with pytest.raises(SourceError, match=rf"{name} has 1,099,511,627,776 bytes, a file of that name has at most"):
        open_checkpoint(folder)


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}" + " " * (LARGEST_BYTES - 2))
    assert read_json(path) == {}
    path.write_text("{}" + " " * (LARGEST_BYTES - 1))
    with pytest.raises(SourceError, match=r"config\.json has 8,388,609 bytes"):
        read_json(path)


def test_a_byte_order_mark_is_dropped(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "ünï"}), encoding="utf-8-sig")
    assert open_checkpoint(folder).config == config | {"_name_or_path": "ünï"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_a_git_lfs_pointer_is_refused_with_the_command_that_fetches_the_file(folder: Path, name: str) -> None:
    if name.endswith("index.json"):
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(POINTER)
    with pytest.raises(SourceError) as caught:
        open_checkpoint(folder)
    message = f"{folder / name} is a Git LFS pointer, not the file itself; run `git lfs pull` in {folder}"
    assert str(caught.value) == message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_another_encoding_is_not_json(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "config.json").write_bytes('{"ä": 1}'.encode(encoding))
    with pytest.raises(ConfigError, match=r"config\.json is not valid JSON: 'utf-8' codec"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    "content",
    ['{"a":' * 100_000, "[" * 1_000_000, '{"n_embd": ' + "9" * 5000 + "}", "\0", "nul", '{"a": 1,}'],
    ids=["deep objects", "deep lists", "a number of 5,000 digits", "NUL", "a word", "a comma"],
)
def test_any_parser_error_is_reported_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match="is not valid JSON") as caught:
        read_json(tmp_path / "config.json")
    assert len(str(caught.value)) < 400
