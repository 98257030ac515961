"""However early a command is killed, its folder is whole, and running the same command repairs it."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gpt2_export import export_graphs, freeze_checkpoint, pipeline, quantize, temporary
from gpt2_export.errors import StorageError
from gpt2_export.folder import manifest
from gpt2_export.graphs import export, kinds
from gpt2_export.precision.precision import Precision
from gpt2_export.verification import tokenizer_parity
from kills import full_at, killed_at

INT8 = ("model_int8.onnx", "model_serving_int8.onnx", "model_int8.safetensors")
Command = Callable[[Path], object]


@pytest.fixture
def instant(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every computation instant: only the changes of the folder are tested."""
    report = manifest.read(quantized).quality

    def add(precision: Precision, folder: Path, out: Path, *_: Any) -> Any:
        for name in INT8:
            content = (quantized / name).read_bytes()
            (out / name).write_bytes(content + bytes((folder / name).exists()))  # differs the second time
        return report[precision.name]

    def write(model: Any, path: Path, *_: Any) -> None:
        path.write_bytes(b"other")

    def freeze(_: Any, folder: Path, **__: Any) -> list[str]:
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes((quantized / name).read_bytes())
        return []

    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(pipeline, "freeze", freeze)
    monkeypatch.setattr(tokenizer_parity, "compare", lambda *_: None)
    monkeypatch.setattr(kinds, "trace_all", lambda *_, **__: ({kind: kind for kind in kinds.KINDS}, []))
    monkeypatch.setattr(pipeline, "_add", add)
    monkeypatch.setattr(export, "finished", lambda base, *_: base)
    monkeypatch.setattr(export, "write", write)


def _quantize(folder: Path) -> object:
    return quantize(folder, ["int8"], max_ppl_increase=1000)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def check_whole(folder: Path) -> manifest.Manifest:
    document = manifest.read(folder)
    assert manifest.differences(folder, document) == []
    return document


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize(
    ("command", "already"),
    [(_quantize, False), (_quantize, True), (export_graphs, False)],
    ids=["quantize", "quantize again", "onnx"],
)
def test_a_made_folder_is_whole_whenever_its_command_is_killed(
    made: Path, tmp_path: Path, command: Command, already: bool
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "folder"))
    if already:
        command(folder)
    (folder / "notes.txt").write_text("mine")
    finished = Path(shutil.copytree(folder, tmp_path / "finished"))
    command(finished)
    moments = 0
    while True:
        trial = Path(shutil.copytree(folder, tmp_path / "trial"))
        if not killed_at(moments, partial(command, trial)):
            break
        document = check_whole(trial)
        assert document.files.keys() >= {"model.safetensors", "config.json"}
        assert document.parity or command is export_graphs
        assert manifest.foreign_files(trial) == ["notes.txt"]
        command(trial)
        assert contents(trial).keys() == contents(finished).keys(), moments
        assert check_whole(trial).quality.keys() == check_whole(finished).quality.keys()
        assert (trial / "notes.txt").read_text() == "mine"
        assert not [path for path in trial.iterdir() if temporary.is_own(path.name)]
        shutil.rmtree(trial)
        moments += 1
    assert moments > 12


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize("command", [_quantize, export_graphs], ids=["quantize", "onnx"])
def test_a_disk_that_fills_up_at_any_moment_leaves_the_folder_as_it_was(
    made: Path, tmp_path: Path, command: Command
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "folder"))
    before = contents(folder)
    moments = 0
    while full_at(moments, partial(command, folder), StorageError):
        assert contents(folder) == before
        assert {path.name for path in folder.iterdir()} == before.keys()
        moments += 1
    assert moments > 5
    check_whole(folder)


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize("interrupted", [_quantize, pytest.param(None, marks=pytest.mark.nightly)])
def test_a_folder_being_replaced_is_there_or_the_next_command_restores_it(
    source: Path, made: Path, tmp_path: Path, interrupted: Command | None
) -> None:
    def replace(out: Path) -> object:
        return freeze_checkpoint(source, out, force=True)

    folder = Path(shutil.copytree(made, tmp_path / "folder"))
    if interrupted:  # its change is committed, but not finished
        assert any(killed_at(moment, partial(interrupted, folder)) and _is_decided(folder) for moment in range(40))
    moments = absent = 0
    while True:
        place = tmp_path / "place"
        place.mkdir()
        (place / ".out.partial-mine").write_text("mine")
        trial = Path(shutil.copytree(folder, place / "out"))
        if not killed_at(moments, partial(replace, trial)):
            break
        if trial.exists():
            check_whole(trial)
        else:
            absent += 1
        replace(trial)
        assert check_whole(trial).graphs == {}
        assert {path.name for path in place.iterdir()} == {"out", ".out.partial-mine"}
        shutil.rmtree(place)
        moments += 1
    assert (moments > 12, absent) == (True, 1)


def _is_decided(folder: Path) -> bool:
    return any((path / temporary.JOURNAL).exists() for path in folder.iterdir() if temporary.is_own(path.name))
