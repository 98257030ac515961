"""manifest.json: where the folder comes from, a hash of every file, what made it, and how it was verified."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from gpt2_export import plain_file, temporary
from gpt2_export.errors import FolderError
from gpt2_export.folder import journal, schema

MANIFEST = journal.MANIFEST
CARD = "README.md"
# What tells a card that was generated from one that somebody wrote, which is never replaced.
CARD_MARK = (
    "<!-- gpt2-export wrote this card, and writes it anew with each push; take this line out to keep your own. -->"
)
SCHEMA = 1
MANIFEST_BYTES = 16_000_000  # a real one has twenty thousand
GENERATOR = "gpt2-export"
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
    tokenizer: dict[str, Any] | None = None,
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
        tokenizer: what its tokenizer was held to, None where there is none.
        files: what `entries` says of them.
    """
    return {
        "schema": SCHEMA,
        "generator": {"name": GENERATOR, "version": importlib.metadata.version("gpt2-export")},
        "source": {"name": source, "revision": revision},
        "weights": weights,
        "graphs": graphs,
        "warnings": warnings,
        "tokenizer": tokenizer,
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
        document = plain_file.read_json(path, MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise FolderError(f"{folder} has no {MANIFEST}; make it with `gpt2-export make SOURCE {folder}`") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise FolderError(f"{path} has schema {ascii(found)[:60]}, this version reads {SCHEMA}; make the folder again")
    document.setdefault("quality", {})  # folders of before there was another precision
    document.setdefault("tokenizer", None)  # of before it was compared
    try:
        FIELDS("", document)
        _refuse_unlisted(document)
    except ValueError as error:
        raise FolderError(f"{path} is damaged: {str(error).removeprefix(': ')}; make the folder again") from error
    return document


def made_by_export(folder: Path) -> bool:
    """Whether gpt2-export made a folder, of whichever schema; manifest.json alone is a common name."""
    try:
        document = plain_file.read_json(folder / MANIFEST, MANIFEST_BYTES)
        return bool(document["generator"]["name"] == GENERATOR and document["schema"])
    except UNREADABLE:
        return False


def foreign_files(folder: Path) -> list[str]:
    """What lies in a made folder and is somebody's own; of a damaged manifest's all."""
    try:
        listed = set(plain_file.read_json(folder / MANIFEST, MANIFEST_BYTES)["files"])
    except UNREADABLE:
        listed = set()
    listed |= {MANIFEST, *LEFT_BY_DOWNLOADS, *journal.pending(folder)}
    with suppress(*UNREADABLE):
        if CARD_MARK in plain_file.read(folder / CARD).decode():
            listed.add(CARD)
    names = {path.name for path in folder.iterdir()} - listed
    return sorted(name for name in names if not temporary.is_own(name))


def differences(folder: Path, document: dict[str, Any]) -> list[str]:
    """What is not as the manifest says, file by file; empty for a folder that is whole.

    Raises:
        FolderError: something is no plain file.
    """
    wrong = []
    for name, entry in document["files"].items():
        path = folder / name
        plain_file.refuse_odd(path)
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != entry["bytes"]:
            wrong.append(f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}")
        elif _sha256(path) != entry["sha256"]:
            wrong.append(f"{name} has another sha256")
    return wrong


def stays_inside(name: str) -> bool:
    """Whether a name means a file of the folder on every system: with \\ and : one would leave it on Windows.

    >>> [stays_inside(name) for name in ("a", "onnx/a", "../a", "/a", "a/../../b", "c:a", "..\\\\a", "")]
    [True, True, False, False, False, False, False, False]
    """
    path = PurePosixPath(name)
    return (bool(path.parts) and not path.is_absolute() and ".." not in path.parts and name.isprintable()) and not set(
        name
    ) & set("\\:\0")


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


def _file_name(where: str, value: object) -> None:
    schema.text(where, value)
    if not stays_inside(str(value)):
        schema.refuse(where, value, "the name of a file in the folder")


def _refuse_unlisted(document: dict[str, Any]) -> None:
    """What stands for weights and graphs must be listed, with its hash."""
    named = {"weights": document["weights"]} | {f"graphs: {p}": found for p, found in document["graphs"].items()}
    for where, table in named.items():
        for key, name in table.items():
            if name not in document["files"]:
                schema.refuse(schema.inside(where, key), name, "one of files")


def _entry(path: Path) -> Entry:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


FIELDS = schema.record(
    schema=schema.one_of([SCHEMA]),
    generator=schema.record(name=schema.text, version=schema.text),
    source=schema.record(name=schema.text, revision=schema.optional(schema.text)),
    weights=schema.table(_file_name),
    graphs=schema.table(schema.table(_file_name)),
    versions=schema.table(schema.text),
    warnings=schema.items(schema.text),
    tokenizer=schema.optional(schema.record()),
    files=schema.table(schema.record(bytes=schema.whole, sha256=schema.sha256), name=_file_name),
    # Reports of another version have other figures; whoever shows one finds out.
    parity=schema.optional(schema.record(reference=schema.text, backends=schema.table(schema.record()))),
    quality=schema.table(schema.record()),
)
