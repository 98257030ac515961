"""A small file is read whole, or one line says why it is not."""

from pathlib import Path

import pytest
from gpt2_export import plain_file
from gpt2_export.errors import FolderError
from odd_files import ODD, make_odd


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path, odd: str) -> None:
    make_odd(tmp_path / "x", odd)
    for read in (plain_file.read, plain_file.read_json, plain_file.refuse_odd):
        with pytest.raises(FolderError, match=r"x (is .*, not a plain file; put the file|cannot be read: )"):
            read(tmp_path / "x")


def test_a_link_is_told_with_what_it_leads_to(tmp_path: Path) -> None:
    make_odd(tmp_path / "x", "link to a device")
    with pytest.raises(FolderError, match=r"x is a link to /dev/zero, a device, not a plain file"):
        plain_file.refuse_odd(tmp_path / "x")


def test_a_file_and_what_leads_to_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('\N{BYTE ORDER MARK}{"a": [1, null, "é"]}', encoding="utf-8")
    (tmp_path / "b").symlink_to("a")
    for name in ("a", "b"):
        assert plain_file.read_json(tmp_path / name) == {"a": [1, None, "é"]}


def test_what_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    plain_file.refuse_odd(tmp_path / "x")
    for name in ("x", "x/y", "a/b"):
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            plain_file.read(tmp_path / name)


def test_the_limit_is_on_what_is_read_and_not_on_what_the_system_says(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert plain_file.read(tmp_path / "x", 5) == b"12345"
    with pytest.raises(FolderError, match="has more than 4 bytes, too many for such a file"):
        plain_file.read(tmp_path / "x", 4)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_file_has_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FolderError, match="cannot be read"):
        plain_file.refuse_odd(tmp_path / name)
