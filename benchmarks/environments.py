"""A virtual environment for each peer, made once and kept: what a peer needs has no place beside what another needs."""

import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from peers import Peer
from processes import run

INSTALLED = "installed.json"  # written last: without it an environment is made anew


def prepare(peer: Peer, folder: Path, log: Path) -> Path:
    """The Python of the peer's environment, which is made where it is missing or was made from other requirements.

    Raises:
        PeerError: a package does not install.
    """
    python = folder / "bin" / "python"
    key = environment_key(peer)
    marker = folder / INSTALLED
    if marker.is_file() and json.loads(marker.read_text()) == key:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(folder)], log=log)
    # peers.toml pins what decides a number; the constraints of the test environments are of other versions.
    unconstrained = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    run([str(python), "-m", "pip", "install", "--no-input", *peer.requirements], log=log, env=unconstrained)
    marker.write_text(json.dumps(key))
    return python


def environment_key(peer: Peer) -> dict[str, str]:
    """What an environment was made from: its requirements, and the sources where one is a package of this checkout."""
    return {"python": sys.version, **{each: source_digest(each) for each in peer.requirements}}


def source_digest(requirement: str) -> str:
    """A digest of a local package's files; nothing for one from the index.

    >>> source_digest("ctranslate2==4.8.5")
    ''
    """
    folder = Path(requirement.partition("[")[0])
    return digest(folder.rglob("*")) if folder.is_absolute() else ""


def digest(files: Iterable[Path]) -> str:
    """Of the files' names and contents, caches aside.

    >>> digest([Path(__file__)]) == digest([Path(__file__)])
    True
    """
    total = hashlib.sha256()
    for file in sorted(files):
        if file.is_file() and not {"__pycache__", ".pytest_cache"} & set(file.parts):
            total.update(file.name.encode() + b"\0" + file.read_bytes())
    return total.hexdigest()[:16]


def installed_version(package: str, folder: Path) -> str:
    """The version of a package in an environment."""
    places = map(str, folder.glob("lib/python*/site-packages"))
    found = next(iter(importlib.metadata.distributions(name=package, path=list(places))), None)
    return found.version if found else "?"
