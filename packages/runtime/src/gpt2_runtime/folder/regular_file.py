"""Opens regular files without blocking: a FIFO, a device or a folder in their place is refused at once, by name."""

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
    """What changes when a file is replaced or written: inode, size, time of the last write and of the last change.

    The change time cannot be set back, as archive and build tools do with the write time. A file that is written twice
    within one tick of the system's clock (1 to 10 ms) can look the same.
    """

    inode: int
    bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path, note: str = "") -> FileState:
        """The current state of a file.

        Args:
            path: the file.
            note: added to the error if it does not exist.

        Raises:
            BundleError: it does not exist, or is not a regular file.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise BundleError(_absent(path, error, note)) from error
        _check_regular(path, status)
        return cls._from(status)

    @classmethod
    def _from(cls, status: os.stat_result) -> FileState:
        return cls(inode=status.st_ino, bytes=status.st_size, mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns)


def is_same_file(path: str | Path | int, other: Path) -> bool:
    """Whether both are the same file, however spelled or linked; an int is a descriptor. False if one is absent."""
    try:
        return os.path.samestat(os.stat(path), other.stat())  # noqa: PTH116 - a Path cannot be a descriptor
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return False


def open_regular(path: Path, expected: FileState | None = None) -> FileIO:
    """The file, open for reading and unbuffered.

    Args:
        path: the file.
        expected: its state when the folder was opened, if it must not have changed since.

    Raises:
        BundleError: it does not exist, is not a regular file, is not readable, or has changed.
    """
    FileState.of(path)  # first, since merely opening a device can have an effect
    # If a pipe takes its place at this moment, opening it still does not wait for a writer.
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
    """Raises BundleError unless an open file is a regular file in the expected state."""
    status = os.fstat(stream.fileno())
    _check_regular(path, status)
    if expected is not None and FileState._from(status) != expected:
        raise BundleError(changed(path))


def read_regular(path: Path, most: int, expected: FileState | None = None) -> bytes:
    """The bytes of a file of the folder.

    Args:
        path: the file.
        most: the largest size allowed, in bytes.
        expected: see `open_regular`.

    Raises:
        BundleError: it is larger, is not a readable regular file, or has changed.
    """
    with open_regular(path, expected) as stream:
        size = os.fstat(stream.fileno()).st_size
        data = b"" if size > most else _read(path, stream, most + 1)
    if max(size, len(data)) > most:
        raise BundleError(f"{path} has {max(size, len(data)):,} bytes, must have at most {most:,}; {COPY}")
    return data


def changed(path: Path) -> str:
    """The message about a file that is no longer the one that was opened."""
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


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "not a regular file")
        raise BundleError(f"{_named(path)} is {kind}, must be a regular file; {COPY}")


def _absent(path: Path, error: OSError, note: str) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{_named(path)} does not exist{note}; {COPY}"
    return f"{path} cannot be read: {error.strerror or error}"


def _named(path: Path) -> str:
    """The path; for a link also its target."""
    try:
        return f"{path}, a link to {path.readlink()}," if path.is_symlink() else str(path)
    except OSError:
        return str(path)
