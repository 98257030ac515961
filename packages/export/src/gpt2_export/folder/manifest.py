"""manifest.json: where the folder comes from, a hash of every file, what made it, and how it was verified."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from gpt2_export import plain_file, temporary
from gpt2_export.errors import FolderError
from gpt2_export.folder import journal, typed_json
from gpt2_export.folder.reports import ParityReport, QualityReport, TokenizerReport
from gpt2_export.folder.typed_json import Sha256, Whole
from gpt2_export.freeze.freeze import WEIGHTS
from gpt2_export.graphs import kinds
from gpt2_export.precision.precision import FP32, PRECISIONS

MANIFEST = journal.MANIFEST
CARD = "README.md"
# Distinguishes a generated card from a handwritten one, which is never replaced.
CARD_MARK = "<!-- gpt2-export wrote this card"  # as 0.1.0's cards begin theirs, whatever follows
SCHEMA = 1
MANIFEST_BYTES = 16_000_000  # a real one has twenty thousand
GENERATOR = "gpt2-export"
# Files that huggingface_hub leaves beside a download.
LEFT_BY_DOWNLOADS = (".cache", ".gitattributes")
PACKAGES = ("gpt2-model", "gpt2-export", "torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "transformers")
UNREADABLE = (OSError, FolderError, ValueError, TypeError, LookupError, RecursionError)


def stays_inside(name: str) -> bool:
    """Whether a name is inside the folder on every system: with \\ or : it could leave it on Windows.

    >>> [stays_inside(name) for name in ("a", "onnx/a", "../a", "/a", "a/../../b", "c:a", "..\\\\a", "")]
    [True, True, False, False, False, False, False, False]
    """
    path = PurePosixPath(name)
    return (bool(path.parts) and not path.is_absolute() and ".." not in path.parts and name.isprintable()) and not set(
        name
    ) & set("\\:\0")


def _check_file_name(where: str, value: object) -> None:
    typed_json.text(where, value)
    if not stays_inside(str(value)):
        typed_json.refuse(where, value, "the name of a file in the folder")


FileName = Annotated[str, _check_file_name]


@dataclass(frozen=True, kw_only=True)
class Generator:
    """The program that made the folder."""

    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source of the checkpoint: a name, and the commit if it is a repository on the Hub."""

    name: str
    revision: str | None


@dataclass(frozen=True, kw_only=True)
class PrecisionFacts:
    """What a reader needs to know of a precision: the type of the keys and values in its serving graph."""

    name: str
    cache_type: Annotated[str, typed_json.one_of(["float32", "float16"])]


@dataclass(frozen=True, kw_only=True)
class File:
    """The size and hash of one file."""

    bytes: Whole
    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json, in order; fields with a default may be absent in older ones.

    Attributes:
        precisions: those of `weights`, the most exact first.
        weights: precision -> file.
        graphs: precision -> kind -> file.
        warnings: from making the folder.
        tokenizer: the comparison of its tokenizer with the source's, or None.
        parity: the parity report of float32, or None if it is not verified.
        quality: precision -> its quality report.
        versions: of the packages involved.
        files: all but the manifest and the card.
    """

    schema: Annotated[int, typed_json.one_of([SCHEMA])] = SCHEMA
    generator: Generator
    source: Source
    precisions: tuple[PrecisionFacts, ...] = ()
    weights: Mapping[str, FileName]
    graphs: Mapping[str, Mapping[str, FileName]]
    warnings: tuple[str, ...]
    tokenizer: TokenizerReport | None = None
    parity: ParityReport | None
    quality: Mapping[str, QualityReport] = field(default_factory=dict)
    versions: Mapping[str, str]
    files: Mapping[FileName, File]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        result: dict[str, Any] = typed_json.plain(self)
        return result


def describe(
    *,
    source: Source,
    parity: ParityReport | None,
    quality: Mapping[str, QualityReport],
    warnings: Iterable[str],
    tokenizer: TokenizerReport | None,
    files: Mapping[str, File],
) -> Manifest:
    """The manifest of a folder made now; `files` come from `entries`."""
    weights = {FP32: WEIGHTS} | {name: PRECISIONS[name].weights for name in PRECISIONS if name in quality}
    return Manifest(
        generator=Generator(name=GENERATOR, version=importlib.metadata.version("gpt2-export")),
        source=source,
        precisions=tuple(PrecisionFacts(name=name, cache_type=_cache_type(name)) for name in weights),
        weights=weights,
        graphs={name: graphs for name, graphs in kinds.graphs_among(files).items() if name in weights},
        warnings=tuple(warnings),
        tokenizer=tokenizer,
        parity=parity,
        quality=quality,
        versions=versions(),
        files=dict(sorted(files.items())),
    )


def again(changed: Manifest) -> Manifest:
    """The manifest of a folder changed now, with everything derived from its files and reports updated."""
    return describe(
        source=changed.source,
        parity=changed.parity,
        quality=changed.quality,
        warnings=changed.warnings,
        tokenizer=changed.tokenizer,
        files=changed.files,
    )


def entries(folder: Path, names: Collection[str] | None = None) -> dict[str, File]:
    """Size and hash of a folder's files: the named ones that exist, or all that may be its own."""
    paths = sorted(folder.iterdir()) if names is None else [folder / name for name in sorted(names)]
    return {path.name: _entry(path) for path in paths if _belongs(path)}


def text(manifest: Manifest) -> str:
    """The text of manifest.json."""
    return json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False) + "\n"


def read(folder: Path) -> Manifest:
    """The manifest of a made folder.

    Raises:
        FolderError: it is missing, cannot be read, or has another schema.
    """
    path = folder / MANIFEST
    try:
        document = plain_file.read_json(path, MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise FolderError(f"{folder} has no {MANIFEST}; make it with `gpt2-export make SOURCE {folder}`") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        schema = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise FolderError(f"{path} has schema {ascii(schema)[:60]}, this version reads {SCHEMA}; make the folder again")
    try:
        return parsed(document)
    except ValueError as error:
        raise FolderError(f"{path} is damaged: {str(error).removeprefix(': ')}; make the folder again") from error


def parsed(document: Any) -> Manifest:
    """The manifest of a JSON document; ValueError names the field that is wrong."""
    manifest = typed_json.read(Manifest, "", document)
    _refuse_unlisted(manifest)
    return manifest


def made_by_export(folder: Path) -> bool:
    """Whether gpt2-export made a folder, with any schema; the name manifest.json alone proves nothing."""
    try:
        document = plain_file.read_json(folder / MANIFEST, MANIFEST_BYTES)
        return bool(document["generator"]["name"] == GENERATOR and document["schema"])
    except UNREADABLE:
        return False


def foreign_files(folder: Path) -> list[str]:
    """The files in a made folder that are not its own; all of them if the manifest is damaged."""
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


def differences(folder: Path, manifest: Manifest) -> list[str]:
    """The differences from the manifest, file by file; empty for an intact folder.

    Raises:
        FolderError: something is not a plain file.
    """
    wrong = []
    for name, file in manifest.files.items():
        path = folder / name
        plain_file.refuse_odd(path)
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != file.bytes:
            wrong.append(f"{name} has {path.stat().st_size} bytes instead of {file.bytes}")
        elif _sha256(path) != file.sha256:
            wrong.append(f"{name} has another sha256")
    return wrong


def versions() -> dict[str, str]:
    """The versions of the packages involved in making a folder, if installed."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _cache_type(precision: str) -> str:
    return "float32" if precision == FP32 else PRECISIONS[precision].cache.numpy().name


def _belongs(path: Path) -> bool:
    # Folders (.git, the Hub's .cache) and .gitattributes are not its own. The card is the user's to edit.
    return path.is_file() and path.name not in (MANIFEST, CARD) and not path.name.startswith(".")


def _refuse_unlisted(manifest: Manifest) -> None:
    """Refuses weights and graphs that are not among the files."""
    named = {"weights": manifest.weights} | {f"graphs: {p}": kinds_of for p, kinds_of in manifest.graphs.items()}
    for where, table in named.items():
        for key, name in table.items():
            if name not in manifest.files:
                typed_json.refuse(typed_json.inside(where, key), name, "one of files")


def _entry(path: Path) -> File:
    return File(bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
