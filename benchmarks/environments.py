"""A virtual environment for each peer, made once and kept: the peers' requirements conflict."""

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

INSTALLED = "installed.json"  # written last: without it an environment is made again


def prepare(peer: Peer, folder: Path, log: Path) -> Path:
    """The Python of the peer's environment, which is made if it is missing or out of date.

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
    # peers.toml pins what affects the figures; the test environments' constraints have other versions.
    unconstrained = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    run([str(python), "-m", "pip", "install", "--no-input", *peer.requirements], log=log, env=unconstrained)
    marker.write_text(json.dumps(key))
    return python


def environment_key(peer: Peer) -> dict[str, str]:
    """What an environment depends on: its requirements, and the sources of packages in this checkout."""
    return {"python": sys.version, **{each: source_digest(each) for each in peer.requirements}}


def source_digest(requirement: str) -> str:
    """A digest of a local package's files; empty for one from the index.

    >>> source_digest("ctranslate2==4.8.5")
    ''
    """
    folder = Path(requirement.partition("[")[0])
    return digest(folder.rglob("*")) if folder.is_absolute() else ""


def digest(files: Iterable[Path]) -> str:
    """The digest of the files' names and contents, without caches.

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
    distribution = next(iter(importlib.metadata.distributions(name=package, path=list(places))), None)
    return distribution.version if distribution else "?"
