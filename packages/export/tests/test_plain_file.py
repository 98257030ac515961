"""A small file is read completely, or one line says why not."""

from pathlib import Path

import pytest
from gpt2_export import plain_file
from gpt2_export.errors import FolderError
from odd_files import ODD, make_odd


@pytest.mark.parametrize("odd", ODD)
def test_a_file_that_is_not_plain_is_refused_at_once(tmp_path: Path, odd: str) -> None:
    make_odd(tmp_path / "x", odd)
    for read in (plain_file.read, plain_file.read_json, plain_file.refuse_odd):
        with pytest.raises(FolderError, match=r"x (is .*, not a plain file; put the file|cannot be read: )"):
            read(tmp_path / "x")


def test_a_link_is_reported_with_its_target(tmp_path: Path) -> None:
    make_odd(tmp_path / "x", "link to a device")
    with pytest.raises(FolderError, match=r"x is a link to /dev/zero, a device, not a plain file"):
        plain_file.refuse_odd(tmp_path / "x")


def test_a_file_and_a_link_to_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('\N{BYTE ORDER MARK}{"a": [1, null, "é"]}', encoding="utf-8")
    (tmp_path / "b").symlink_to("a")
    for name in ("a", "b"):
        assert plain_file.read_json(tmp_path / name) == {"a": [1, None, "é"]}


def test_a_missing_file_is_a_separate_error(tmp_path: Path) -> None:
    plain_file.refuse_odd(tmp_path / "x")
    for name in ("x", "x/y", "a/b"):
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            plain_file.read(tmp_path / name)


def test_the_limit_applies_to_the_bytes_read_not_to_the_reported_size(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert plain_file.read(tmp_path / "x", 5) == b"12345"
    with pytest.raises(FolderError, match="has more than 4 bytes, too many for such a file"):
        plain_file.read(tmp_path / "x", 4)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_an_invalid_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FolderError, match="cannot be read"):
        plain_file.refuse_odd(tmp_path / name)
