"""Reads a checkpoint's text files: regular files of a bounded size, UTF-8, with or without a byte order mark."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from gpt2_model.errors import ConfigError, SourceError
from gpt2_model.quoting import name_shown

# Far above any published file, and small enough to fit into memory many times over.
LARGEST_BYTES = 8 * 2**20
LARGEST_BYTES_OF = {"tokenizer.json": 64 * 2**20, "vocab.json": 64 * 2**20, "merges.txt": 64 * 2**20}

IRREGULAR = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # a named pipe swapped in meanwhile opens at once and reads as empty
LFS_POINTER = "version https://git-lfs.github.com/spec/"


def read_text(path: Path) -> str:
    """The content of a text file, without its byte order mark.

    Raises:
        SourceError: the file is absent, not a regular file, too large, or cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    refuse_broken_link(path)
    try:
        refuse_unreadable(path, path.stat())
        with os.fdopen(os.open(path, os.O_RDONLY | NO_WAIT), "rb") as file:
            content = file.read(_largest(path))  # bounds a device swapped in meanwhile
    except FileNotFoundError:
        raise SourceError(f"{path.parent} has no {path.name}; a checkpoint is a folder with one") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    text = content.decode("utf-8-sig")
    if text.startswith(LFS_POINTER):
        raise SourceError(lfs_message(path))
    return text


def refuse_broken_link(path: Path) -> None:
    """Raises SourceError for a broken link, as left by a copy without the files linked to."""
    if path.is_symlink() and not path.exists():
        target = name_shown(str(path.readlink()))
        raise SourceError(f"{path} is a link to {target}, which is not there; copy the files themselves with `cp -rL`")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        SourceError: the file is absent or cannot be read.
        ConfigError: it holds something else.
    """
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds a JSON {type(document).__name__}; it must be an object")
    return document


def refuse_unreadable(path: Path, status: os.stat_result) -> None:
    """Raises SourceError if a text file is a pipe, a device or a folder, or larger than any real one."""
    refuse_irregular(path, status)
    if status.st_size > _largest(path):
        raise SourceError(
            f"{path} has {status.st_size:,} bytes, a file of that name has at most {_largest(path):,}; is it damaged?"
        )


def _largest(path: Path) -> int:
    return LARGEST_BYTES_OF.get(path.name, LARGEST_BYTES)


def refuse_irregular(path: Path, status: os.stat_result) -> None:
    """Raises SourceError if a file is a pipe, a device or a folder: reading those may never end."""
    if not stat.S_ISREG(status.st_mode):
        kind = IRREGULAR.get(stat.S_IFMT(status.st_mode), "something else")
        raise SourceError(f"{path} is {kind}, not a plain file; put the file itself there")


def lfs_message(path: Path) -> str:
    """The message for a Git LFS pointer where the file should be."""
    return f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in {path.parent}"
