"""Folders made once for all workers of a run: an export takes as long as a whole file of tests."""

import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

Shared = Callable[[str, Callable[[Path], None]], Path]


def shared_below(base: Path) -> Shared:
    """Makes a folder by name, in the first worker that needs it.

    Args:
        base: pytest's folder for this worker's temporary files.
    """
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"

    def make(name: str, write: Callable[[Path], None]) -> Path:
        folder, partial = place / name, place / f"{name} partial"
        place.mkdir(exist_ok=True)
        with FileLock(place / f"{name}.lock"):
            if not folder.exists():
                partial.mkdir()
                write(partial)
                partial.rename(folder)
        return folder

    return make
