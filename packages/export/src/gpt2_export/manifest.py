"""manifest.json: where the folder comes from, a hash of every file, what made it, and how it was verified."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt2_export import journal, plainfile, temporary
from gpt2_export.errors import FolderError

MANIFEST = journal.MANIFEST
CARD = "README.md"
# What tells a card that was generated from one that somebody wrote, which is never replaced.
CARD_MARK = (
    "<!-- gpt2-export wrote this card, and writes it anew with each push; take this line out to keep your own. -->"
)
SCHEMA = 1
GENERATOR = "gpt2-export"
FIELDS = {
    "generator": dict,
    "source": dict,
    "weights": dict,
    "graphs": dict,
    "versions": dict,
    "warnings": list,
    "files": dict,
    "parity": dict | None,
    "quality": dict,
}
INNER = {"generator": {"name", "version"}, "source": {"name", "revision"}, "parity": {"reference", "backends"}}
ENTRY = {"bytes", "sha256"}
# What the hub's library leaves beside a download; it is nobody's work.
LEFT_BY_DOWNLOADS = (".cache", ".gitattributes")
PACKAGES = ("gpt2-model", "gpt2-export", "torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "transformers")


UNREADABLE = (OSError, FolderError, ValueError, TypeError, LookupError, RecursionError)
Entry = dict[str, int | str]
"""A file's bytes and sha256."""


def describe(
    *,
    source: str,
    revision: str | None,
    weights: dict[str, str],
    graphs: dict[str, dict[str, str]],
    parity: dict[str, Any] | None,
    quality: dict[str, Any],
    warnings: list[str],
    files: Mapping[str, Entry],
) -> dict[str, Any]:
    """The manifest of a folder.

    Args:
        source, revision: where its checkpoint comes from.
        weights: precision -> file.
        graphs: precision -> kind -> file.
        parity: what float32 was verified with, None where it was not.
        quality: precision -> what it loses.
        warnings: of its making.
        files: what `entries` says of them.
    """
    return {
        "schema": SCHEMA,
        "generator": {"name": GENERATOR, "version": importlib.metadata.version("gpt2-export")},
        "source": {"name": source, "revision": revision},
        "weights": weights,
        "graphs": graphs,
        "warnings": warnings,
        "parity": parity,
        "quality": quality,
        "versions": versions(),
        "files": dict(sorted(files.items())),
    }


def entries(folder: Path, names: Collection[str] | None = None) -> dict[str, Entry]:
    """Size and hash of a folder's files: of those named that are there, or of all that may be its own."""
    paths = sorted(folder.iterdir()) if names is None else [folder / name for name in sorted(names)]
    return {path.name: _entry(path) for path in paths if _belongs(path)}


def text(document: dict[str, Any]) -> str:
    """As it is written."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a made folder.

    Raises:
        FolderError: there is none, it cannot be read, or it is of another schema.
    """
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FolderError(f"{folder} has no {MANIFEST}; make it with `gpt2-export make SOURCE {folder}`") from None
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise FolderError(f"{path} has schema {found!r}, this version reads {SCHEMA}; make the folder again")
    document.setdefault("quality", {})  # folders of before there was another precision
    wrong = [name for name, kind in FIELDS.items() if not isinstance(document.get(name), kind)]
    wrong = wrong or [name for name, fields in INNER.items() if not _has(document[name], fields)]
    wrong = wrong or (["files"] if not all(_has(entry, ENTRY) for entry in document["files"].values()) else [])
    if wrong:
        raise FolderError(f"{path} is damaged: {', '.join(wrong)} are not what they must be; make the folder again")
    return document


def is_made_here(folder: Path) -> bool:
    """Whether gpt2-export made a folder, of whichever schema; manifest.json alone is a common name."""
    try:
        document = _parsed(folder / MANIFEST)
        return bool(document["generator"]["name"] == GENERATOR and document["schema"])
    except UNREADABLE:
        return False


def strangers(folder: Path) -> list[str]:
    """What lies in a made folder and is somebody's own; of a damaged manifest's all."""
    try:
        listed = set(_parsed(folder / MANIFEST)["files"])
    except UNREADABLE:
        listed = set()
    listed |= {MANIFEST, *LEFT_BY_DOWNLOADS, *journal.pending(folder)}
    with suppress(*UNREADABLE):
        if CARD_MARK in plainfile.read(folder / CARD).decode():
            listed.add(CARD)
    names = {path.name for path in folder.iterdir()} - listed
    return sorted(name for name in names if not temporary.is_own(name))


def _parsed(path: Path) -> Any:
    """What is in a JSON file; raises one of `UNREADABLE`."""
    return json.loads(plainfile.read(path).decode("utf-8-sig"))


def differences(folder: Path, document: dict[str, Any]) -> list[str]:
    """What is not as the manifest says, file by file; empty for a folder that is whole."""
    wrong = []
    for name, entry in document["files"].items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != entry["bytes"]:
            wrong.append(f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}")
        elif _sha256(path) != entry["sha256"]:
            wrong.append(f"{name} has another sha256")
    return wrong


def versions() -> dict[str, str]:
    """Of what takes part in making a folder, as far as it is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _belongs(path: Path) -> bool:
    # A folder (.git, the hub's .cache) is somebody else's, and so is .gitattributes. The card is people's to edit.
    return path.is_file() and path.name not in (MANIFEST, CARD) and not path.name.startswith(".")


def _has(value: object, fields: Collection[str]) -> bool:
    """Whether a part of the manifest has what is asked of it; None has no parts."""
    return value is None or (isinstance(value, dict) and set(fields) <= value.keys())


def _entry(path: Path) -> Entry:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
