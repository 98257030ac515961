"""Writes and changes folders atomically: written aside, flushed to disk, renamed.

If the program dies before the rename, OUT does not exist. A killed run leaves its temporary folder beside OUT, or in
the folder it was changing, under a name that starts with a dot; the next run on the same OUT removes it.
"""

import errno
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpt2_export import temporary
from gpt2_export.errors import FolderError, StorageError
from gpt2_export.folder import journal, manifest


@contextmanager
def staging(out: Path, *, force: bool, needed_bytes: int) -> Iterator[Path]:
    """A new folder to write to; it becomes `out` if the block ends without an error.

    Args:
        out: must not exist, unless `force`.
        force: replace `out` if gpt2-export made it; any other folder is never touched.
        needed_bytes: estimate of what will be written; refused at once if the disk has less.

    Raises:
        FolderError: `out` exists.
        StorageError: the file system refuses, or is full.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 (resolve() would follow a link at OUT and replace its target)
    _remove_abandoned(out)
    refuse_existing(out, force=force)
    with _storage_errors(out), _parents(out):
        _refuse_full(out, out.parent, needed_bytes)
        with temporary.folder(out.parent, out.name) as folder:
            yield folder
            folder.chmod(0o777 & ~_umask())
            _flush(folder)
            _rename(folder, out, force)


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Locks a made folder for one command; a change that a killed command left unfinished is completed first.

    Raises:
        FolderError: another command is changing it.
        StorageError: the file system refuses.
    """
    if not folder.is_dir():
        yield  # reading its manifest reports the error
        return
    with _storage_errors(folder), temporary.alone(folder) as is_alone:
        if not is_alone:
            raise FolderError(f"another gpt2-export is changing {folder}; wait until it has finished")
        journal.recover(folder)
        yield


@contextmanager
def within(folder: Path, *, needed_bytes: int) -> Iterator[Path]:
    """A temporary folder inside a made one, for files that join it later; removed when the block ends.

    Raises:
        StorageError: the file system refuses, or is full.
    """
    with _storage_errors(folder):
        _refuse_full(folder, folder, needed_bytes)
        with temporary.folder(folder) as inside:
            yield inside


def join(
    inside: Path, folder: Path, names: Collection[str], *, between: str, after: str, removed: Collection[str] = ()
) -> None:
    """Moves files out of `within`'s folder, all or none, even if it is killed (see `journal.py`).

    Args:
        inside: the folder they are in.
        folder: the made folder they join.
        names: the files' names.
        between: the manifest without the files to be replaced or removed.
        after: the manifest with all the files.
        removed: files to remove.

    Raises:
        FolderError: a file in the way was not made by gpt2-export.
        StorageError: the file system refuses.
    """
    own = {name for name in manifest.foreign_files(folder) if name in names}
    if own:
        raise FolderError(f"{folder} has {', '.join(sorted(own))}, which gpt2-export did not make; move it away")
    with _storage_errors(folder):
        for name, text in ((journal.BETWEEN, between), (manifest.MANIFEST, after)):
            (inside / name).write_text(text, encoding="utf-8")
        journal.decide(inside, folder, names, removed)
        try:
            journal.finish(inside, folder)
        except BaseException:  # Ctrl-C, too late
            with suppress(OSError):
                journal.finish(inside, folder)
            raise


def replace_text(path: Path, text: str) -> None:
    """Writes a small file atomically: a reader sees the old one or the new one.

    Raises:
        StorageError: the file system refuses.
    """
    with _storage_errors(path), temporary.folder(path.parent) as inside:
        partial = inside / path.name
        partial.write_text(text, encoding="utf-8")
        journal.fsync(partial)
        partial.replace(path)
        journal.fsync(path.parent)


def refuse_existing(out: Path, *, force: bool) -> None:
    """Raises FolderError where `staging` would, for a caller that downloads first."""
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise FolderError(f"{out} exists; remove it, choose another name, or pass force (--force) to replace it")
    if out.is_symlink() or not manifest.made_by_export(out):
        raise FolderError(f"gpt2-export did not make {out}, so force (--force) does not replace it; remove it yourself")
    if own := manifest.foreign_files(out):
        names = f"{', '.join(own[:3])}{', ...' if len(own) > 3 else ''}"
        raise FolderError(
            f"{out} has files that gpt2-export did not make: {names}; move them away before force (--force)"
        )


def _refuse_full(out: Path, place: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise StorageError(
            f"{out} needs about {needed_bytes:,} bytes, {place} has {free:,}; free some, or write elsewhere"
        )


def _rename(folder: Path, out: Path, force: bool) -> None:
    refuse_existing(out, force=force)  # another process may have made it meanwhile
    if not out.exists():
        folder.rename(out)
    else:
        with changing(out), temporary.folder(out.parent, out.name) as backup:
            old = backup / out.name
            try:
                out.rename(old)
                folder.rename(out)
            except BaseException:  # Ctrl-C is not an Exception
                if old.exists() and not out.exists():
                    old.rename(out)
                raise
    journal.fsync(out.parent)


@contextmanager
def _parents(out: Path) -> Iterator[None]:
    """Makes the folders above `out`; those made in vain are removed again."""
    missing = [parent for parent in out.parents if not parent.exists()]
    try:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from error
        yield
    finally:
        with suppress(OSError):  # one that is not empty
            for parent in missing:
                parent.rmdir()


def _remove_abandoned(out: Path) -> None:
    """Removes what killed runs left behind; a folder that was about to be replaced is put back."""
    for folder in temporary.abandoned(out.parent, out.name):
        if not out.exists() and manifest.made_by_export(folder / out.name):
            (folder / out.name).rename(out)


def _flush(folder: Path) -> None:
    for path in folder.iterdir():
        journal.fsync(path)
    journal.fsync(folder)


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
