"""Files join a folder from one inside it, all at once or not at all; however it is killed, the folder opens."""

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gpt2_export import temporary
from gpt2_export.errors import FolderError, StorageError
from gpt2_export.folder import atomic, journal, manifest
from kills import killed_at


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def describe(folder: Path, files: dict[str, str], quality: dict[str, Any] | None = None) -> str:
    """Writes files and returns their manifest."""
    for name, content in files.items():
        (folder / name).write_text(content)
    fields = {"source": SOURCE, "parity": None, "warnings": [], "tokenizer": None}
    listed = manifest.entries(folder, files)
    return manifest.text(manifest.describe(quality=quality or {}, files=listed, **fields))


SOURCE = manifest.Source(name="test", revision=None)
BEFORE = {"config.json": "{}", "model.safetensors": "weights", "a": "old a", "b": "old b"}
AFTER = {"config.json": "{}", "model.safetensors": "weights", "a": "new a", "c": "new c"}
BETWEEN = {"config.json": "{}", "model.safetensors": "weights"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files a and b."""
    made = tmp_path / "out"
    made.mkdir()
    text = describe(made, BEFORE)
    (made / manifest.MANIFEST).write_text(text)
    return made


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, str]:
    """The manifests before, between and after `change`."""
    manifests = {}
    for name, files in (("between", BETWEEN), ("after", AFTER)):
        place = tmp_path / name
        place.mkdir()
        manifests[name] = describe(place, files)
    return manifests


def change(folder: Path, texts: dict[str, str]) -> None:
    """Replaces a, removes b, adds c."""
    with atomic.changing(folder), atomic.within(folder, needed_bytes=1) as inside:
        for name in ("a", "c", "not-this"):
            (inside / name).write_text(f"new {name}")
        atomic.join(inside, folder, ["a", "c"], removed=["b"], **texts)


def state(folder: Path) -> dict[str, str]:
    """The files in the manifest, checked against it; none may be missing."""
    document = manifest.read(folder)
    assert manifest.differences(folder, document) == []
    return {name: (folder / name).read_text() for name in document.files}


def test_files_are_outside_the_folders_manifest_until_they_join(folder: Path, texts: dict[str, str]) -> None:
    change(folder, texts)
    assert contents(folder) == {**AFTER, manifest.MANIFEST: texts["after"]}


def test_a_failed_change_leaves_nothing(folder: Path) -> None:
    before = contents(folder)

    def fail() -> None:
        with atomic.changing(folder), atomic.within(folder, needed_bytes=1) as inside:
            (inside / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert contents(folder) == before


def test_killed_before_any_change_the_folder_opens_and_the_next_change_repairs_it(
    folder: Path, texts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    (folder / "notes.txt").write_text("mine")
    moments, states = 0, []
    while True:
        trial = shutil.copytree(folder, folder.with_name(f"trial-{moments}"))
        if not killed_at(moments, partial(change, trial, texts)):
            break
        moments += 1
        opened = state(trial)
        states.append(opened)
        assert opened in (BEFORE, BETWEEN, AFTER), moments
        assert manifest.foreign_files(trial) == ["notes.txt"], moments  # so that --force knows whose files are whose
        change(trial, texts)
        assert contents(trial) == {**AFTER, "notes.txt": "mine", manifest.MANIFEST: texts["after"]}, moments
    assert moments > 12
    assert [opened for number, opened in enumerate(states) if states.index(opened) == number] == [
        BEFORE,
        BETWEEN,
        AFTER,
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
@pytest.mark.parametrize("call", [0, 1, 2, 3, 4])
def test_stopped_at_any_move_it_is_all_or_nothing(
    folder: Path, texts: dict[str, str], monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException
) -> None:
    rename, replace, count = Path.rename, Path.replace, 0

    def stopped(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == call + 1:
            raise error
        return (rename if target.name == temporary.JOURNAL else replace)(self, target)

    monkeypatch.setattr(Path, "rename", stopped)
    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises((KeyboardInterrupt, StorageError)):
        change(folder, texts)
    monkeypatch.undo()
    assert state(folder) == (BEFORE if call == 0 else AFTER)
    assert not [path for path in folder.iterdir() if temporary.is_own(path.name)]


def test_a_committed_change_is_void_if_the_folder_was_changed_since(folder: Path, texts: dict[str, str]) -> None:
    for moment in range(30):
        trial = shutil.copytree(folder, folder.with_name(f"trial-{moment}"))
        if killed_at(moment, partial(change, trial, texts)) and journal.pending(trial):
            other = {"config.json": "{}", "model.safetensors": "other weights", "a": "other a"}
            (trial / manifest.MANIFEST).write_text(describe(trial, other))
            with atomic.changing(trial):
                assert state(trial) == other
            assert not journal.pending(trial)
            return
    pytest.fail("no kill came after the commit")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 10**5,
        "[]",
        '{"names": ["../out-of-it"], "removed": [], "manifests": []}',
        '{"names": [], "removed": ["/etc/hostname"], "manifests": []}',
        '{"names": [], "removed": [3], "manifests": []}',
    ],
    ids=["json", "deep", "list", "outside", "absolute", "type"],
)
def test_an_untrusted_journal_reaches_nothing_outside_its_folder(folder: Path, content: str) -> None:
    (folder.parent / "out-of-it").write_text("mine")
    inside = folder / temporary.new_name("")
    inside.mkdir()
    (inside / temporary.JOURNAL).write_text(content)

    def enter() -> None:
        with atomic.changing(folder):
            pytest.fail("the journal was accepted")

    with pytest.raises(FolderError, match=r"is not a journal of gpt2-export; remove "):
        enter()
    assert (folder.parent / "out-of-it").read_text() == "mine"


def test_a_file_of_the_users_is_never_replaced(folder: Path, texts: dict[str, str]) -> None:
    (folder / "c").write_text("mine")
    with pytest.raises(FolderError, match=r"out has c, which gpt2-export did not make; move it away"):
        change(folder, texts)
    assert (folder / "c").read_text() == "mine"
    assert state(folder) == BEFORE


def test_two_at_once_are_one_after_the_other(folder: Path, texts: dict[str, str]) -> None:
    with (
        atomic.changing(folder),
        pytest.raises(FolderError, match=r"another gpt2-export is changing .*out; wait until it has finished"),
    ):
        change(folder, texts)
    assert json.loads((folder / manifest.MANIFEST).read_text())["files"].keys() == BEFORE.keys()
