"""OUT is complete or absent however the program ends, and no other folder is touched."""

import errno
import multiprocessing
import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from gpt2_export import temporary
from gpt2_export.errors import FolderError, StorageError
from gpt2_export.folder import atomic, journal, manifest
from kills import killed_at

WRITERS = {atomic.__file__, journal.__file__}
FILES = {"config.json": "new", "model.safetensors": "weights"}


def fill(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).write_text(content)
    document = manifest.describe(
        source=manifest.Source(name="test", revision=None),
        parity=None,
        quality={},
        warnings=[],
        tokenizer=None,
        files=manifest.entries(folder),
    )
    atomic.replace_text(folder / manifest.MANIFEST, manifest.text(document))


def write(out: Path, *, force: bool = False) -> None:
    with atomic.staging(out, force=force, needed_bytes=1) as folder:
        fill(folder)


def is_whole(out: Path) -> bool:
    """Every file of the manifest is there; an empty folder is not whole."""
    return manifest.differences(out, manifest.read(out)) == [] and {*FILES} < {path.name for path in out.iterdir()}


def beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path != out)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "parent").mkdir()
    return tmp_path / "parent" / "out"


def test_out_appears_only_at_the_end(out: Path) -> None:
    with atomic.staging(out, force=False, needed_bytes=1) as folder:
        fill(folder)
        assert not out.exists()
        assert folder.parent == out.parent  # on one file system, so that the rename is atomic
    assert is_whole(out)
    assert beside(out) == []


def test_parents_that_are_absent_are_made(out: Path) -> None:
    write(out / "deeper" / "still")
    assert is_whole(out / "deeper" / "still")


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_passes_through_and_leaves_nothing(out: Path, error: BaseException) -> None:
    def fail() -> None:
        with atomic.staging(out, force=False, needed_bytes=1) as folder:
            fill(folder)
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    assert not out.exists()
    assert beside(out) == []


@pytest.mark.parametrize("kind", ["folder", "made folder", "file", "broken link"])
def test_an_existing_out_is_refused_before_anything_is_written(out: Path, kind: str) -> None:
    if kind == "file":
        out.write_text("mine")
    elif kind == "broken link":
        out.symlink_to("nowhere")
    elif kind == "folder":
        out.mkdir()
    else:
        write(out)
    with pytest.raises(FolderError, match=r"out exists; remove it, choose another name, or pass force \(--force\)"):
        write(out)
    assert beside(out) == []


def test_force_replaces_a_made_folder(out: Path) -> None:
    write(out)
    (out / "config.json").write_text("old")
    write(out, force=True)
    assert is_whole(out)
    assert beside(out) == []


def test_force_makes_a_folder_where_there_is_none(out: Path) -> None:
    write(out, force=True)
    assert is_whole(out)


@pytest.mark.parametrize(
    "content", [None, "", "{}", '{"name": "A web app", "start_url": "/"}', '{"schema": 1, "generator": {"name": "x"}}']
)
def test_force_never_replaces_any_other_folder(out: Path, content: str | None) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("five years")
    if content is not None:  # manifest.json is a common name
        (out / "manifest.json").write_text(content)
    with pytest.raises(FolderError, match=r"gpt2-export did not make .*out, so force \(--force\) does not replace it"):
        write(out, force=True)
    assert (out / "thesis.tex").read_text() == "five years"


def test_force_never_replaces_a_file(out: Path) -> None:
    out.write_text("mine")
    with pytest.raises(FolderError, match="gpt2-export did not make "):
        write(out, force=True)
    assert out.read_text() == "mine"


def test_force_never_goes_through_a_link(out: Path) -> None:
    write(out.with_name("target"))
    (out.with_name("target") / "config.json").write_text("old")
    out.symlink_to("target")
    with pytest.raises(FolderError, match="gpt2-export did not make "):
        write(out, force=True)
    assert (out / "config.json").read_text() == "old"


def test_when_the_replacing_run_fails_the_old_folder_stays(out: Path) -> None:
    write(out)
    with (
        pytest.raises(ZeroDivisionError),
        atomic.staging(out, force=True, needed_bytes=1) as folder,
    ):
        (folder / "config.json").write_text(str(1 / 0))
    assert is_whole(out)
    assert beside(out) == []


def test_when_the_last_rename_fails_the_old_folder_stays(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(out)
    rename = Path.rename

    def refuse_out(self: Path, target: Path) -> Path:
        if target == out and temporary.is_own(self.name, "out"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_out)
    with pytest.raises(StorageError, match="Input/output error"):
        write(out, force=True)
    assert is_whole(out)
    assert beside(out) == []


def interrupted_at_line(number: int, out: Path) -> bool:
    """Replaces `out` in a process that gets Ctrl-C before its `number`th line of `WRITERS`."""
    child = os.fork()
    if child == 0:  # it never returns to pytest
        lines = 0
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal lines
            if frame.f_code.co_filename not in WRITERS:
                return None
            lines += event == "line"
            if lines == number + 1 and event == "line":
                os.kill(os.getpid(), signal.SIGINT)
            return trace

        try:
            sys.settrace(trace)
            write(out, force=True)
        finally:
            os._exit(lines > number)
    _, status = os.waitpid(child, 0)
    return status != 0


@pytest.mark.parametrize("force", [False, True])
def test_killed_at_any_change_it_leaves_no_folder_or_a_whole_one_and_the_next_run_cleans_up(
    out: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power is cut here, and the disk is slow
    moments = 0
    while True:
        if force and not out.exists():
            write(out)
        if not killed_at(moments, partial(write, out, force=force)):
            break
        moments += 1
        if force and not out.exists():  # between two renames
            with pytest.raises(ZeroDivisionError), atomic.staging(out, force=True, needed_bytes=1):
                _ = 1 / 0
            assert out.exists(), moments
        if out.exists():
            assert is_whole(out), moments
            if not force:
                shutil.rmtree(out)
    assert moments > 9
    assert is_whole(out)
    write(out, force=True)  # the last kill came after the last clean-up
    assert beside(out) == []


def test_interrupted_at_any_line_the_old_folder_or_the_new_one_is_there(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    write(out)
    moments = 0
    while interrupted_at_line(moments, out):
        moments += 1
        assert is_whole(out), moments
    assert moments > 60


@pytest.mark.parametrize("own", ["notes.txt", ".git", "README.md", "my.partial.txt"])
def test_force_never_deletes_files_of_the_user(out: Path, own: str) -> None:
    write(out)
    (out / own).write_text("mine")
    with pytest.raises(FolderError, match=f"out has files that gpt2-export did not make: {own}; move them away"):
        write(out, force=True)
    assert (out / own).read_text() == "mine"


def test_files_left_by_a_download_or_a_push_do_not_block_force(out: Path) -> None:
    write(out)
    (out / ".cache").mkdir()
    (out / ".gitattributes").write_text("* text")
    (out / "README.md").write_text(f"{manifest.CARD_MARK}\nof the last push")
    write(out, force=True)
    assert is_whole(out)


def test_parents_made_in_vain_are_removed_again(out: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic.staging(out / "a" / "b", force=False, needed_bytes=1):
        _ = 1 / 0
    assert not out.exists()


def test_a_running_commands_files_are_left_alone_and_the_slower_one_is_refused(out: Path) -> None:
    def be_overtaken() -> None:
        with atomic.staging(out, force=False, needed_bytes=1) as slow:
            fill(slow)
            faster = multiprocessing.get_context("fork").Process(target=write, args=(out,))
            faster.start()
            faster.join(30)
            assert faster.exitcode == 0
            assert (slow / "config.json").exists()

    with pytest.raises(FolderError, match="out exists"):
        be_overtaken()
    assert is_whole(out)
    assert beside(out) == []


@pytest.mark.parametrize("name", ["out", "a b", "model[1]", "*", "..hidden"])
def test_remains_of_a_killed_run_are_removed_whatever_the_folders_name(out: Path, name: str) -> None:
    out = out.with_name(name)
    assert killed_at(6, partial(write, out))
    assert beside(out), "the run was killed too early to leave anything"
    write(out)
    assert beside(out) == []


def test_remains_of_another_out_are_not_touched(out: Path) -> None:
    others = sorted(
        (temporary.new_name("other"), f"{temporary.PREFIX}mine", temporary.PREFIX, ".out.partial-mine", ".out.partial")
    )
    for name in others:
        (out.parent / name).mkdir()
        (out.parent / name / "precious").write_text("five years")
    write(out)
    write(out.with_name("*"))
    assert beside(out) == ["*", *others]
    assert all((out.parent / name / "precious").exists() for name in others)


def test_the_target_of_a_link_is_not_removed(out: Path) -> None:
    (out.parent / "mine").mkdir()
    (out.parent / "mine" / "precious").write_text("five years")
    name = temporary.new_name("out")
    (out.parent / name).symlink_to("mine")
    write(out)
    assert (out.parent / "mine" / "precious").exists()


def test_a_pipe_with_such_a_name_does_not_block(out: Path) -> None:
    os.mkfifo(out.parent / temporary.new_name("out"))
    write(out)
    assert is_whole(out)


def test_too_little_space_is_reported_before_anything_is_written(out: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"out needs about 1,000,000,000,000,000,000 bytes, .* has [\d,]+; free"),
        atomic.staging(out, force=False, needed_bytes=10**18),
    ):
        pytest.fail("the block was entered")
    assert beside(out) == []


def test_a_disk_that_fills_up_meanwhile_is_one_error_that_names_out(out: Path) -> None:
    def fill_the_disk() -> None:
        with atomic.staging(out, force=False, needed_bytes=1) as folder:
            fill(folder)
            Path("/dev/full").write_text("this device is always full")

    with pytest.raises(StorageError, match=r"no space left for .*/out; free some, or write elsewhere"):
        fill_the_disk()
    assert not out.exists()
    assert beside(out) == []


@pytest.mark.parametrize("below", ["out", "deeper/out"])
def test_a_parent_that_is_a_file_is_refused(out: Path, below: str) -> None:
    out.parent.joinpath("file").write_text("mine")
    with pytest.raises(StorageError, match=r"file.*: Not a directory"):
        write(out.parent / "file" / below)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_folder(out: Path, mask: int) -> None:
    with umask(mask):
        write(out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~mask
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o666 & ~mask}


def test_a_small_file_is_replaced_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "manifest.json"
    atomic.replace_text(path, "old")
    full: Callable[[int], None] = lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))  # noqa: E731
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"no space left for .*manifest\.json"):
        atomic.replace_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    write(tmp_path / "out")
    with pytest.raises(StorageError, match=r"out needs about .* free some"):
        atomic.within(tmp_path / "out", needed_bytes=10**18).__enter__()
