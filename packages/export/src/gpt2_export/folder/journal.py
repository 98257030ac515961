"""Changes a made folder all or nothing: committed by one write of a journal, finished by this process or the next.

The new files are complete and flushed in a temporary folder inside the made one. Writing the journal there commits the
change: before it the folder is as it was; after it this process finishes the change or, if it is killed, the next
command that writes to the folder does. The folder opens at every moment: first its manifest drops what is to be
replaced (BETWEEN), then the files move, and the new manifest comes last.
"""

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from gpt2_export import plain_file, temporary
from gpt2_export.errors import FolderError
from gpt2_export.temporary import JOURNAL

MANIFEST = "manifest.json"
BETWEEN = "between.json"


@dataclass(frozen=True, kw_only=True)
class Journal:
    """A committed change of a folder.

    Attributes:
        names: the files to move in, in order.
        removed: the files to remove.
        manifests: the sha256 of the manifest before, between and after. If the folder has any other, it was changed
            since, and the journal is void.
    """

    names: tuple[str, ...]
    removed: tuple[str, ...]
    manifests: tuple[str, ...]


def decide(inside: Path, folder: Path, names: Collection[str], removed: Collection[str]) -> None:
    """Commits a change whose files, MANIFEST and BETWEEN are in `inside`, by writing its journal."""
    staged = [*names, BETWEEN, MANIFEST]
    for name in staged:
        fsync(inside / name)
    hashes = tuple(_sha256(path) for path in (folder / MANIFEST, inside / BETWEEN, inside / MANIFEST))
    journal = Journal(names=tuple(names), removed=tuple(removed), manifests=hashes)
    draft = inside / f"{JOURNAL}.draft"
    draft.write_text(json.dumps(asdict(journal)), encoding="utf-8")
    fsync(draft)
    draft.rename(inside / JOURNAL)
    fsync(inside)


def finish(inside: Path, folder: Path) -> None:
    """Carries out the journal in `inside`, or the rest of it."""
    journal = _read(inside)
    if _sha256(folder / MANIFEST) in journal.manifests:
        _move(inside / BETWEEN, folder / MANIFEST)
        fsync(folder)
        for name in journal.names:
            _move(inside / name, folder / name)
        for name in journal.removed:
            (folder / name).unlink(missing_ok=True)
        fsync(folder)
        _move(inside / MANIFEST, folder / MANIFEST)
        fsync(folder)
    (inside / JOURNAL).unlink()


def recover(folder: Path) -> None:
    """Finishes a committed change of a killed run, and removes an uncommitted one; the caller holds the lock.

    Raises:
        FolderError: a journal was not written by gpt2-export.
    """
    for path in folder.iterdir():
        if temporary.is_own(path.name) and path.is_file() and not path.is_symlink():
            path.unlink()
    for inside in temporary.abandoned(folder):
        if (inside / JOURNAL).exists():
            finish(inside, folder)


def pending(folder: Path) -> set[str]:
    """The files that a committed change adds or removes, which the manifest may not list."""
    names = set()
    for inside in folder.iterdir():
        if temporary.is_own(inside.name) and (inside / JOURNAL).exists():
            journal = _read(inside)
            names |= {*journal.names, *journal.removed}
    return names


def fsync(path: Path) -> None:
    """Flushes a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move(source: Path, target: Path) -> None:
    if source.exists():  # else it was moved already
        source.replace(target)


def _read(inside: Path) -> Journal:
    """The journal; it may be in a downloaded folder, so names that leave the folder are refused."""
    path = inside / JOURNAL
    try:
        document = json.loads(plain_file.read(path))
        lists = [document[field] for field in ("names", "removed", "manifests")]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise FolderError(f"{path} is not a journal of gpt2-export; remove {inside}") from error
    if not all(isinstance(each, list) and all(_is_name(name) for name in each) for each in lists):
        raise FolderError(f"{path} is not a journal of gpt2-export; remove {inside}")
    names, removed, manifests = map(tuple, lists)
    return Journal(names=names, removed=removed, manifests=manifests)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and not set(value) & set("/\\:\0")


def _sha256(path: Path) -> str:
    """The hash of a manifest; if there is none, a value that no manifest has."""
    try:
        return hashlib.sha256(plain_file.read(path)).hexdigest()
    except FileNotFoundError:
        return ""
