"""A change of a made folder that is decided in one step, and finished by whoever comes next.

The new files lie whole and flushed in a temporary folder inside the made one. A journal there decides: before it the
folder is as it was, after it the change is finished, by this process or, where that is killed, by the next command that
writes to the folder. Meanwhile the folder opens: first its manifest forgets what is to be replaced (BETWEEN), then the
files come, and the new manifest last.
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
    """What is to happen to a folder.

    Attributes:
        names: the files that come, in that order.
        removed: the files that go.
        manifests: the sha256 of the manifest before, between and after. Where the folder has another one, someone
            has changed it since, and the change is void.
    """

    names: tuple[str, ...]
    removed: tuple[str, ...]
    manifests: tuple[str, ...]


def decide(inside: Path, folder: Path, names: Collection[str], removed: Collection[str]) -> None:
    """Writes the journal of a change whose files, MANIFEST and BETWEEN lie in `inside`; from then on it will happen."""
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
    """Does what the journal in `inside` says, or the rest of it."""
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
    """Finishes what was decided before a run was killed, and removes what was not; the caller has the folder alone.

    Raises:
        FolderError: a journal is none that was written here.
    """
    for path in folder.iterdir():
        if temporary.is_own(path.name) and path.is_file() and not path.is_symlink():
            path.unlink()
    for inside in temporary.abandoned(folder):
        if (inside / JOURNAL).exists():
            finish(inside, folder)


def pending(folder: Path) -> set[str]:
    """The files that a decided change brings or takes away, which the manifest may not list."""
    names = set()
    for inside in folder.iterdir():
        if temporary.is_own(inside.name) and (inside / JOURNAL).exists():
            found = _read(inside)
            names |= {*found.names, *found.removed}
    return names


def fsync(path: Path) -> None:
    """Flushes a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move(source: Path, target: Path) -> None:
    if source.exists():  # else it was moved before
        source.replace(target)


def _read(inside: Path) -> Journal:
    """The journal, which a folder from elsewhere could bring along: names that leave the folder are refused."""
    path = inside / JOURNAL
    try:
        document = json.loads(plain_file.read(path))
        lists = [document[field] for field in ("names", "removed", "manifests")]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise FolderError(f"{path} is no journal of gpt2-export; remove {inside}") from error
    if not all(isinstance(each, list) and all(_is_name(name) for name in each) for each in lists):
        raise FolderError(f"{path} is no journal of gpt2-export; remove {inside}")
    names, removed, manifests = map(tuple, lists)
    return Journal(names=names, removed=removed, manifests=manifests)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and not set(value) & set("/\\:\0")


def _sha256(path: Path) -> str:
    """The hash of a manifest; of none at all, one that no manifest has."""
    try:
        return hashlib.sha256(plain_file.read(path)).hexdigest()
    except FileNotFoundError:
        return ""
