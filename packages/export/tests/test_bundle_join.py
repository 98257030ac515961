"""Files join a folder from one within it, all at once, or it is as it was."""

from pathlib import Path

import pytest
from gpt2_export import bundle


def made(folder: Path) -> dict[str, str]:
    """A folder, and what is in it."""
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(name)
    return contents(folder)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_what_joins_a_folder_was_beside_it_until_then(tmp_path: Path) -> None:
    before = made(tmp_path / "out")
    with bundle.within(tmp_path / "out", needed_bytes=1) as inside:
        for name in ("a", "b", "not-this"):
            (inside / name).write_text(name)
        bundle.join(inside, tmp_path / "out", ["a", "b"])
    assert contents(tmp_path / "out") == before | {"a": "a", "b": "b"}


def test_nothing_of_it_stays_when_it_fails(tmp_path: Path) -> None:
    before = made(tmp_path / "out")

    def fail() -> None:
        with bundle.within(tmp_path / "out", needed_bytes=1) as inside:
            (inside / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert contents(tmp_path / "out") == before


def test_what_a_killed_one_left_goes_with_the_next(tmp_path: Path) -> None:
    made(tmp_path / "out")
    with bundle.within(tmp_path / "out", needed_bytes=1) as inside:
        abandoned = inside.with_name(inside.name + "-killed")
        abandoned.mkdir()
        (abandoned / "a").write_text("half")
    with bundle.within(tmp_path / "out", needed_bytes=1):
        assert not abandoned.exists()


def test_files_that_join_a_folder_join_it_all_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = made(tmp_path / "out")
    rename, stopped = Path.rename, 0

    def stop(self: Path, target: Path) -> Path:
        nonlocal stopped
        stopped += 1
        if stopped == 4:  # the second file's own
            raise KeyboardInterrupt
        return rename(self, target)

    with bundle.within(tmp_path / "out", needed_bytes=1) as inside:
        for name in ("config.json", "model.safetensors", "more"):
            (inside / name).write_text("other")
        monkeypatch.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            bundle.join(inside, tmp_path / "out", ["config.json", "model.safetensors", "more"])
    assert contents(tmp_path / "out") == before
