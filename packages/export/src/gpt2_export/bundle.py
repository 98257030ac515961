"""A folder appears whole or not at all: written under a temporary name, flushed to the disk, renamed at once.

Whatever ends the program before the rename, OUT is not there; what a killed run left behind lies beside it under a name
that starts with a dot, and the next run on the same OUT removes it.
"""

import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpt2_export import manifest
from gpt2_export.errors import FolderError, StorageError


@contextmanager
def staging(out: Path, *, force: bool, needed_bytes: int) -> Iterator[Path]:
    """A new folder to write to, which becomes `out` when the block ends without an error.

    Args:
        out: must not exist, unless `force`.
        force: replace `out` if it is a folder that was made here; any other is never touched.
        needed_bytes: about what will be written; refused at once where the disk has less.

    Raises:
        FolderError: `out` exists.
        StorageError: the file system refuses, or is full.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 (resolve() would follow a link at OUT and replace its target)
    _remove_abandoned(out)
    refuse_existing(out, force=force)
    with _storage_errors(out), _parents(out):
        _refuse_full(out, out.parent, needed_bytes)
        with _partial(out, out.parent) as folder:
            yield folder
            folder.chmod(0o777 & ~_umask())
            _flush(folder)
            _rename(folder, out, force)


@contextmanager
def within(folder: Path, *, needed_bytes: int) -> Iterator[Path]:
    """A new folder inside a made one, for files that join it once they are right; gone when the block ends.

    Raises:
        StorageError: the file system refuses, or is full.
    """
    with _storage_errors(folder):
        _remove_abandoned(folder / folder.name)
        _refuse_full(folder, folder, needed_bytes)
        with _partial(folder, folder) as inside:
            yield inside


def join(inside: Path, folder: Path, names: Collection[str]) -> None:
    """Moves files out of `within`'s folder, flushed to the disk, in that order: all of them, or none if it is stopped.

    Raises:
        StorageError: the file system refuses.
    """
    with _storage_errors(folder), _partial(folder, folder) as before:
        for name in names:
            _fsync(inside / name)
        old = [name for name in names if (folder / name).exists()]
        try:
            for name in names:
                if name in old:
                    (folder / name).rename(before / name)
                (inside / name).rename(folder / name)
        except BaseException:  # Ctrl-C is none of Exception's
            for name in names:
                if (before / name).exists():
                    (before / name).replace(folder / name)
                elif name not in old:
                    (folder / name).unlink(missing_ok=True)
            raise
        _fsync(folder)


def replace_text(path: Path, text: str) -> None:
    """Writes a small file at once: a reader sees the old one or the new one.

    Raises:
        StorageError: the file system refuses.
    """
    partial = path.with_name(f".{path.name}.partial")
    with _storage_errors(path):
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def refuse_existing(out: Path, *, force: bool) -> None:
    """Raises FolderError where `staging` would: for the caller who has a download before it."""
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise FolderError(f"{out} exists; remove it, choose another name, or pass --force to replace it")
    if out.is_symlink() or not manifest.is_made_here(out):
        raise FolderError(
            f"{out} is no folder that gpt2-export made, so --force does not replace it; remove it yourself"
        )
    if own := manifest.strangers(out):
        told = f"{', '.join(own[:3])}{', ...' if len(own) > 3 else ''}"
        raise FolderError(f"{out} has files that gpt2-export did not make, {told}; move them away before --force")


def _refuse_full(out: Path, place: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise StorageError(
            f"{out} needs about {needed_bytes:,} bytes, {place} has {free:,}; free some, or write elsewhere"
        )


def _rename(folder: Path, out: Path, force: bool) -> None:
    refuse_existing(out, force=force)  # somebody else may have made it meanwhile
    if not out.exists():
        folder.rename(out)
    else:
        with _partial(out, out.parent) as kept:
            old = kept / out.name
            try:
                out.rename(old)
                folder.rename(out)
            except BaseException:  # Ctrl-C is none of Exception's
                if old.exists() and not out.exists():
                    old.rename(out)
                raise
    _fsync(out.parent)


@contextmanager
def _partial(out: Path, place: Path) -> Iterator[Path]:
    """A new folder in `place`, locked while this process lives, and gone when the block ends."""
    folder = Path(tempfile.mkdtemp(prefix=_prefix(out), dir=place))
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)  # gone already if it became something


@contextmanager
def _parents(out: Path) -> Iterator[None]:
    """The folders above `out`, those of them that were made for nothing removed again."""
    missing = [parent for parent in out.parents if not parent.exists()]
    try:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from error
        yield
    finally:
        with suppress(OSError):  # one that holds something
            for parent in missing:
                parent.rmdir()


def _remove_abandoned(out: Path) -> None:
    """Removes what killed runs left; a run that is alive holds a lock on its folder.

    A folder that was about to be replaced goes back to its place.
    """
    for folder in out.parent.glob(f"{glob.escape(_prefix(out))}*"):
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            if not out.exists() and manifest.is_made_here(folder / out.name):
                (folder / out.name).rename(out)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def _prefix(out: Path) -> str:
    return f".{out.name}.partial-"


def _flush(folder: Path) -> None:
    for path in folder.iterdir():
        _fsync(path)
    _fsync(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"no space left for {path}; free some, or write elsewhere") from error
        raise StorageError(f"{error.filename or path}: {error.strerror or error}") from error
