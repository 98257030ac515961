"""Reads only plain files: a pipe hangs, a device never ends."""

import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from gpt2_export.errors import FolderError

ODD = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
TEXT_BYTES = 64_000_000  # GPT-2's largest text file, tokenizer.json, has 3.6 million


def refuse_odd(path: Path) -> None:
    """Raises FolderError if a path exists but is not a plain file, itself or through a link.

    >>> refuse_odd(Path("/dev/zero"))
    Traceback (most recent call last):
    gpt2_export.errors.FolderError: /dev/zero is a device, not a plain file; put the file itself there
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # a link to itself, a name too long, a NUL in it
        raise FolderError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    what = ODD.get(stat.S_IFMT(status.st_mode))
    if what is not None:
        link = f"a link to {os.path.realpath(path)}, " if path.is_symlink() else ""
        raise FolderError(f"{path} is {link}{what}, not a plain file; put the file itself there")


def read(path: Path, limit: int = TEXT_BYTES) -> bytes:
    """The bytes of a small file.

    Raises:
        FileNotFoundError, NotADirectoryError: it does not exist.
        FolderError: it cannot be read, is not a plain file, or has more bytes than `limit`.
    """
    refuse_odd(path)
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > limit:
        raise FolderError(f"{path} has more than {limit:,} bytes, too many for such a file; make the folder again")
    return content


def read_json(path: Path, limit: int = TEXT_BYTES) -> Any:
    """The content of a JSON file; a byte order mark is dropped.

    Raises:
        FileNotFoundError, NotADirectoryError: it does not exist.
        FolderError: it cannot be read, or readers of JSON may disagree on it.
    """
    content = read(path, limit)
    try:
        document = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_without_twins)
        json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair is not text
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise FolderError(f"{path} cannot be read: it has {half!a}, which is half a surrogate pair") from error
    except RecursionError as error:
        raise FolderError(f"{path} cannot be read: it is too deep") from error
    except ValueError as error:
        raise FolderError(f"{path} cannot be read: {error}") from error
    return document


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a duplicate name is refused, for readers disagree which value counts."""
    result = dict(pairs)
    if len(result) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name[:100]!a} is there twice")
    return result
