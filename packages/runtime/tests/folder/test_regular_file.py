"""What stands in the place of a file is refused at once, for every file that a folder has."""

import os
import socket
import time
from pathlib import Path

import pytest
from gpt2_runtime import TextGenerator
from gpt2_runtime.errors import BundleError
from gpt2_runtime.explain.explainer import Explainer
from gpt2_runtime.folder.regular_file import FileState, open_regular, read_regular

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no named pipes, no /dev")


def pipe(path):
    os.mkfifo(path)


def listening(path):
    made, here = socket.socket(socket.AF_UNIX), Path.cwd()
    os.chdir(path.parent)  # the path of a socket has room for a hundred characters
    try:
        made.bind(path.name)
    finally:
        os.chdir(here)
    made.close()


PLACED = {
    "a named pipe": pipe,
    "a folder": lambda path: path.mkdir(),
    "a socket": listening,
    "a character device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", PLACED)
def test_what_is_not_a_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "x"
    PLACED[kind](path)
    start = time.monotonic()
    for read in (FileState.of, open_regular, lambda path: read_regular(path, 10)):
        with pytest.raises(BundleError, match=f"is {kind}, must be a regular file; copy or export the folder again"):
            read(path)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("kind", PLACED)
def test_no_file_of_a_folder_may_be_another_thing(damaged, kind):
    for name in sorted(path.name for path in damaged.iterdir()):
        path = damaged / name
        held = path.read_bytes()
        path.unlink()
        PLACED[kind](path)
        with pytest.raises(BundleError, match=rf"{name}.* is {kind}, must be a regular file"):
            TextGenerator.open(damaged)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        path.write_bytes(held)
    TextGenerator.open(damaged, threads=1)


def test_a_link_is_named_with_what_it_leads_to(damaged, tmp_path):
    (damaged / "config.json").unlink()
    (damaged / "config.json").symlink_to("/dev/zero")
    with pytest.raises(BundleError, match=r"config\.json, a link to /dev/zero, is a character device"):
        TextGenerator.open(damaged)
    (damaged / "config.json").unlink()
    (damaged / "config.json").symlink_to(tmp_path / "gone")
    message = r"config\.json, a link to .*gone, does not exist, but manifest\.json lists it; copy or export"
    with pytest.raises(BundleError, match=message):
        TextGenerator.open(damaged)
    (damaged / "config.json").unlink()
    (damaged / "config.json").symlink_to("config.json")
    with pytest.raises(BundleError, match=r"config\.json cannot be read: Too many levels of symbolic links"):
        TextGenerator.open(damaged)


def test_a_file_that_grows_while_it_is_read_has_no_more_than_its_limit(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"1234")
    opened = open_regular(path)
    monkeypatch.setattr("gpt2_runtime.folder.regular_file.open_regular", lambda *_: opened)
    with path.open("ab") as more:
        stat = os.fstat(opened.fileno())
        monkeypatch.setattr("os.fstat", lambda _: stat)
        more.write(b"5" * 100)
    with pytest.raises(BundleError, match="x has 9 bytes, must have at most 8"):
        read_regular(path, 8)


@pytest.mark.parametrize("name", ["model.safetensors", "model_serving.onnx", "model_explain.onnx"])
def test_a_folder_that_changed_since_its_bundle_was_opened_is_refused(damaged, name):
    from gpt2_runtime import Bundle

    bundle = Bundle.open(damaged)
    (damaged / "new").write_bytes((damaged / name).read_bytes())
    (damaged / "new").replace(damaged / name)
    opens = Explainer.open if "explain" in name else TextGenerator.open
    with pytest.raises(BundleError, match=rf"{name} has changed since the folder was opened; open it again"):
        opens(bundle)
