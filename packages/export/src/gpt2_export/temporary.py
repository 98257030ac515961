"""Temporary folders whose names prove that gpt2-export made them, locked while their process lives.

The name is a random number and a digest of that number with the owner's name. No other folder has such a name by
chance, so the remains of a killed run can be removed, and nothing else ever is.
"""

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = ".gpt2-export.partial-"
DIGITS = 16  # of the random number, and of the proof
JOURNAL = "journal.json"  # commits a change (see `journal.py`): a folder with one is kept until the change is done


def is_own(name: str, owner: str = "") -> bool:
    """Whether `folder` made this name for that owner.

    >>> is_own(f"{PREFIX}mine"), is_own(new_name("out"), "out"), is_own(new_name("out"), "other")
    (False, True, False)
    """
    token = name.removeprefix(PREFIX)
    return name.startswith(PREFIX) and token[DIGITS:] == _proof(token[:DIGITS], owner)


def new_name(owner: str = "") -> str:
    """A new unique name."""
    number = secrets.token_hex(DIGITS // 2)
    return f"{PREFIX}{number}{_proof(number, owner)}"


@contextmanager
def folder(place: Path, owner: str = "") -> Iterator[Path]:
    """A new folder in `place`, removed when the block ends unless it contains a journal.

    Args:
        place: an existing folder.
        owner: the owner's name, if `place` holds folders of several.
    """
    made, lock = _locked(place, owner)
    try:
        yield made
    finally:
        os.close(lock)
        if not (made / JOURNAL).exists():
            shutil.rmtree(made, ignore_errors=True)  # already gone if it was renamed


def abandoned(place: Path, owner: str = "") -> Iterator[Path]:
    """The folders that killed runs of this user left, each locked while it is inspected and then removed."""
    try:
        paths = sorted(path for path in place.iterdir() if is_own(path.name, owner))
    except OSError:
        return  # no such place: nothing was left there
    for path in paths:
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(lock).st_uid != os.geteuid() or not _lock(lock):
                continue
            yield path
            if not (path / JOURNAL).exists():
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


@contextmanager
def alone(place: Path) -> Iterator[bool]:
    """Locks a folder for the block; yields False if another process holds it."""
    lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _lock(lock)
    finally:
        os.close(lock)


def _locked(place: Path, owner: str) -> tuple[Path, int]:
    while True:
        made = place / new_name(owner)
        made.mkdir(mode=0o700)
        lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.exists():  # else another run removed it as abandoned before it was locked
            return made, lock
        os.close(lock)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _proof(number: str, owner: str) -> str:
    return hashlib.sha256(f"gpt2-export {number} {owner}".encode(errors="surrogateescape")).hexdigest()[:DIGITS]
