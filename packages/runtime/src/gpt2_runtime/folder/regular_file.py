"""A regular file, opened without waiting: a FIFO, a device or a folder in its place is refused at once, by name."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from gpt2_runtime.errors import BundleError

COPY = "copy or export the folder again"

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True, kw_only=True)
class FileState:
    """What changes with a file: another one in its place, its size, when it was last written to, and changed at all.

    The last of these cannot be set back, as an archive's or a build's tools do with the other. A file that is written
    to twice within one tick of the system's clock (1 to 10 ms) can look the same.
    """

    inode: int
    bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path, note: str = "") -> FileState:
        """The state of a file now.

        Args:
            path: of the file.
            note: what is said of one that is not there.

        Raises:
            BundleError: it is not there, or it is no regular file.
        """
        try:
            found = path.stat()
        except OSError as error:
            raise BundleError(_absent(path, error, note)) from error
        _check_regular(path, found)
        return cls._from(found)

    @classmethod
    def _from(cls, found: os.stat_result) -> FileState:
        return cls(inode=found.st_ino, bytes=found.st_size, mtime_ns=found.st_mtime_ns, ctime_ns=found.st_ctime_ns)


def is_same_file(path: str | Path | int, other: Path) -> bool:
    """Whether both are one file, however spelled or linked; an int is a file descriptor. False where one is absent."""
    try:
        return os.path.samestat(os.stat(path), other.stat())  # noqa: PTH116 - a Path is of no descriptor
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return False


def open_regular(path: Path, expected: FileState | None = None) -> FileIO:
    """The file, open for reading and unbuffered.

    Args:
        path: of the file.
        expected: its state when the folder was opened, where it must be the same still.

    Raises:
        BundleError: it is not there, is no regular file, may not be read, or has changed.
    """
    FileState.of(path)  # first: to open a device can already do something to it
    # Should a pipe come into its place this very moment, then opening it still does not wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        stream = FileIO(os.open(path, flags))
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        check_same(path, stream, expected)
    except BaseException:
        stream.close()
        raise
    return stream


def check_same(path: Path, stream: FileIO, expected: FileState | None) -> None:
    """Refuses an open file that is no regular one, or not in the state expected of it."""
    found = os.fstat(stream.fileno())
    _check_regular(path, found)
    if expected is not None and FileState._from(found) != expected:
        raise BundleError(changed(path))


def read_regular(path: Path, most: int, expected: FileState | None = None) -> bytes:
    """The bytes of a file of the folder.

    Args:
        path: of the file.
        most: bytes that it may have.
        expected: see `open_regular`.

    Raises:
        BundleError: it is larger, cannot be had, is no regular file, or has changed.
    """
    with open_regular(path, expected) as stream:
        size = os.fstat(stream.fileno()).st_size
        data = b"" if size > most else _read(path, stream, most + 1)
    if max(size, len(data)) > most:
        raise BundleError(f"{path} has {max(size, len(data)):,} bytes, must have at most {most:,}; {COPY}")
    return data


def changed(path: Path) -> str:
    """What is said of a file that is not the one that was opened."""
    return f"{path} has changed since the folder was opened; open it again"


def _read(path: Path, stream: FileIO, most: int) -> bytes:
    parts, left = [], most
    try:
        while left and (part := stream.read(left)):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
    return b"".join(parts)


def _check_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise BundleError(f"{_named(path)} is {kind}, must be a regular file; {COPY}")


def _absent(path: Path, error: OSError, note: str) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{_named(path)} is not there{note}; {COPY}"
    return f"{path} cannot be read: {error.strerror or error}"


def _named(path: Path) -> str:
    """A link with what it leads to."""
    try:
        return f"{path}, a link to {path.readlink()}," if path.is_symlink() else str(path)
    except OSError:
        return str(path)
