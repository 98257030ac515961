"""An exported folder -> a checked, frozen Bundle. Nothing here opens the graph; nothing here trusts the folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from os import PathLike
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from gpt2_runtime.arguments import check_flag
from gpt2_runtime.errors import BundleError, shown
from gpt2_runtime.folder.json_object import REMEDY, JsonObject, read_text
from gpt2_runtime.folder.regular_file import FileState, changed, check_same, is_same_file, open_regular, read_regular
from gpt2_runtime.folder.sharing import Shared
from gpt2_runtime.precisions import PRECISIONS

SCHEMA = 1
MOST_SETTINGS_BYTES = 4 * 2**20  # for manifest.json and config.json, which have about ten thousand
MOST_SIZE = 2**31 - 1  # for a model's sizes and token ids
SHA256 = re.compile("[0-9a-f]{64}")
Data = bytes  # an alias, since SealedFile has a field called `bytes`
"""Most exact first."""
CACHE_TYPES = ("float32", "float16")
OLD_CACHE_TYPES = MappingProxyType(dict.fromkeys(PRECISIONS, "float32") | {"fp16": "float16"})
"""For folders whose manifest does not give them."""


@dataclass(frozen=True, kw_only=True)
class SealedFile:
    """One file of the folder, as recorded in the manifest, and its state when the folder was opened."""

    path: Path
    bytes: int
    sha256: str
    state: FileState

    def open(self) -> FileIO:
        """Opens the file for reading; BundleError if it has changed since the folder was opened."""
        return open_regular(self.path, self.state)

    def read(self, most: int) -> Data:
        """The whole file; BundleError if it has changed, or has more than `most` bytes."""
        return read_regular(self.path, most, self.state)

    def check_unchanged(self) -> None:
        """Raises BundleError if it has changed, or is gone."""
        try:
            same = FileState.of(self.path) == self.state
        except BundleError as error:
            raise BundleError(f"{changed(self.path)}: {error}") from error
        if not same:
            raise BundleError(changed(self.path))


@dataclass(frozen=True, kw_only=True)
class Source:
    """The checkpoint that was exported: a Hub id or a folder's name, and the revision if there was one."""

    name: str
    revision: str | None


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes of the graph's inputs and outputs, under config.json's names."""

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


@dataclass(frozen=True, kw_only=True)
class Bundle(Shared):
    """An exported folder whose manifest, sizes and config have been checked.

    Pickled to another process, it is opened again there; BundleError if the folder there differs.

    >>> bundle = Bundle.open(folder)
    >>> bundle.architecture.n_layer
    2
    >>> bundle.graph("fp32", "portable").name
    'model.onnx'

    Attributes:
        cache_types: precision -> "float32" or "float16", the type of its keys and values; the most exact first.
        trained_sha256: the hash of a tokenizer.json whose merges need no check, because the manifest records that they
            are as trained. None if it does not, or if `check_hashes` is set.
    """

    folder: Path
    manifest_sha256: str
    generator: str
    source: Source
    files: Mapping[str, SealedFile]
    graphs: Mapping[str, Mapping[str, str]]
    weights: Mapping[str, str]
    cache_types: Mapping[str, str]
    trained_sha256: str | None
    versions: Mapping[str, str]
    parity: Mapping[str, object] | None
    architecture: Architecture
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @classmethod
    def open(cls, folder: str | Path, *, check_hashes: bool = False) -> Bundle:
        """Reads and checks manifest.json and config.json, and that every listed file exists with its size.

        Args:
            folder: the folder that `gpt2-export make` wrote.
            check_hashes: also read every file and compare its SHA-256, which takes about a second per gigabyte; and
                check a tokenizer's merges when it is opened, whatever the manifest says.

        Raises:
            BundleError: the folder is missing, damaged, or has a schema that this version does not read.
        """
        check_flag("check_hashes", check_hashes)
        if not isinstance(folder, str | PathLike):
            raise BundleError(f"folder is {shown(folder)}, must be a path")
        if re.search("[\ud800-\udfff]", str(folder)):  # how Python represents bytes that are not UTF-8
            raise BundleError(
                f"folder is {shown(folder)}, which is not UTF-8 and cannot be opened by onnxruntime; rename it"
            )
        try:
            return cls._open(Path(folder), check_hashes=check_hashes)
        except OSError as error:  # a folder or a file without permission
            raise BundleError(f"{folder} cannot be read: {error.strerror or error}") from error

    @classmethod
    def _open(cls, folder: Path, *, check_hashes: bool) -> Bundle:
        if not folder.is_dir():
            state = "is not a folder" if folder.exists() else "does not exist"
            raise BundleError(f"{folder} {state}; name a folder made by `gpt2-export make SOURCE OUT`")
        if not os.path.lexists(folder / "manifest.json"):
            raise BundleError(f"{folder} has no manifest.json; make the folder with `gpt2-export make SOURCE OUT`")
        text = read_text(folder / "manifest.json", MOST_SETTINGS_BYTES)
        manifest = JsonObject.parsed(text, folder / "manifest.json")
        schema = manifest.integer("schema")
        if schema != SCHEMA:
            remedy = "upgrade gpt2-runtime" if schema > SCHEMA else "export the folder again"
            raise BundleError(f"{folder} has manifest schema {schema}, this version reads {SCHEMA}; {remedy}")

        files = _sealed_files(folder, manifest.object("files"))
        if check_hashes:
            for file in files.values():
                _check_hash(file)
        graphs = manifest.object("graphs")
        if "config.json" not in files:
            raise BundleError(f"{manifest.where}: files has no config.json; {REMEDY}")
        config = _settings(files["config.json"])
        generation = config
        if "generation_config.json" in files:
            generation = _settings(files["generation_config.json"])
        weights = _listed(manifest.object("weights"), files)
        for precision in graphs:
            if precision not in weights:
                raise BundleError(f"{manifest.where}: weights has no {precision}, but graphs has; {REMEDY}")
        generator, source = manifest.object("generator"), manifest.object("source")
        return cls(
            folder=folder,
            manifest_sha256=hashlib.sha256(text.encode()).hexdigest(),
            generator=f"{generator.text('name')} {generator.text('version')}",
            source=Source(name=source.text("name"), revision=_optional_text(source, "revision")),
            files=files,
            graphs=MappingProxyType({p: _listed(graphs.object(p), files) for p in graphs}),
            weights=weights,
            cache_types=_cache_types(manifest, weights),
            trained_sha256=None if check_hashes else _trained_sha256(manifest, files),
            versions=_texts(manifest.object("versions")),
            parity=_optional_object(manifest, "parity"),
            architecture=_architecture(config),
            bos_token_id=_optional_id(config, "bos_token_id"),
            # As in transformers, generation_config.json overrides the config's stop token.
            eos_token_ids=_ids(generation if "eos_token_id" in generation else config, "eos_token_id"),
        )

    def __reduce__(self) -> tuple[object, ...]:
        return reopened, (str(self.folder.absolute()), self.manifest_sha256)

    def path(self, name: str) -> Path | None:
        """The path of a file that the manifest lists, or None."""
        file = self.files.get(name) if isinstance(name, str) else None
        return None if file is None else file.path

    def owns(self, path: Path) -> bool:
        """Whether `path` is manifest.json or a file that it lists, however spelled or linked; never write to those.

        >>> bundle = Bundle.open(folder)
        >>> bundle.owns(bundle.folder / ".." / bundle.folder.name / "config.json")
        True
        """
        files = (self.folder / "manifest.json", *(file.path for file in self.files.values()))
        return any(is_same_file(path, file) for file in files)

    def precision(self, name: str | None) -> str:
        """The precision of that name, checked; for None the most exact one in the folder.

        Raises:
            BundleError: the folder does not have it.
        """
        has = [name for name in self.cache_types if name in PRECISIONS and self.graphs.get(name)]
        if name is None and has:
            return has[0]
        if not has:
            raise BundleError(f"{self.folder} has no graph; add them with `gpt2-export onnx {self.folder}`")
        if not isinstance(name, str) or name not in has:
            problem = (
                f"{self.folder} has no {name if isinstance(name, str) else shown(name)} graph, only {', '.join(has)}"
            )
            raise BundleError(f"{problem}; choose one of these, or add it with `gpt2-export quantize`")
        return name

    def graph(self, precision: str, kind: str) -> Path:
        """The path of one graph, e.g. `graph("fp32", "portable")`; BundleError if the folder does not have it."""
        named = isinstance(precision, str) and isinstance(kind, str)
        name = self.graphs.get(precision, {}).get(kind) if named else None
        if name is None:
            precision, kind = (each if isinstance(each, str) else shown(each) for each in (precision, kind))
            has = ", ".join(f"{p} {k}" for p, kinds in self.graphs.items() for k in kinds) or "no graph"
            raise BundleError(f"{self.folder} has no {precision} {kind} graph, only {has}; export it too")
        return self.files[name].path


def reopened(folder: str, manifest_sha256: str) -> Bundle:
    """Opens the folder that another process had open, and checks that its manifest is the same.

    Raises:
        BundleError: it does not exist, or is another folder.
    """
    remedy = "open the folder in each process instead"
    try:
        bundle = Bundle.open(folder)
    except BundleError as error:
        raise BundleError(f"folder of another process cannot be opened here: {error}; or {remedy}") from error
    if bundle.manifest_sha256 != manifest_sha256:
        here, there = bundle.manifest_sha256[:12], manifest_sha256[:12]
        problem = f"{folder} has a manifest with sha256 {here}..., in the process that sent it {there}..."
        raise BundleError(f"{problem}; {remedy}")
    return bundle


def _sealed_files(folder: Path, listed: JsonObject) -> Mapping[str, SealedFile]:
    files = {}
    for name in listed:
        if not _stays_inside(name):
            raise BundleError(f"{listed.where} names {shown(name)}, which may leave the folder; {REMEDY}")
        entry = listed.object(name)
        path, size, sha256 = folder / name, entry.integer("bytes"), entry.text("sha256")
        state = FileState.of(path, ", but manifest.json lists it")
        if state.bytes != size:
            problem = f"{path} has {state.bytes} bytes, manifest.json says {size}"
            raise BundleError(f"{problem}; copy or export the folder again")
        if not SHA256.fullmatch(sha256):
            entry.refuse("sha256", "64 hexadecimal digits")
        files[name] = SealedFile(path=path, bytes=size, sha256=sha256, state=state)
    return MappingProxyType(files)


def _settings(file: SealedFile) -> JsonObject:
    """Reads a small JSON file."""
    return JsonObject.read(file.path, MOST_SETTINGS_BYTES, file.state)


def _stays_inside(name: str) -> bool:
    # Backslashes and colons are separators and drives on Windows; a manifest must mean the same everywhere.
    path = PurePosixPath(name)
    inside = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
    return inside and name.isprintable() and not set(name) & set("\\:")


def _check_hash(file: SealedFile) -> None:
    with file.open() as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        check_same(file.path, stream, file.state)
    if sha256 != file.sha256:
        problem = f"{file.path} has sha256 {sha256[:12]}..., manifest.json says {file.sha256[:12]}..."
        raise BundleError(f"{problem}; copy or export the folder again")


def _listed(names: JsonObject, files: Mapping[str, SealedFile]) -> Mapping[str, str]:
    """A table of file names, all listed among the manifest's files."""
    table = _texts(names)
    for key, name in table.items():
        if name not in files:
            raise BundleError(
                f"{names.where}: {key} is {shown(name)}, which is not among the manifest's files; {REMEDY}"
            )
    return table


def _cache_types(manifest: JsonObject, weights: Mapping[str, str]) -> Mapping[str, str]:
    """Precision -> type of its cache, most exact first, from the manifest; for a folder of 0.1.0, as it was then."""
    if "precisions" not in manifest:
        return MappingProxyType({name: OLD_CACHE_TYPES[name] for name in PRECISIONS if name in weights})
    where, types = f"{manifest.where}: precisions", {}
    for each in manifest.items("precisions"):
        if not isinstance(each, dict):
            manifest.refuse("precisions", "a list of objects")
        facts = JsonObject(where=where, fields=each)
        if facts.text("name") in types or facts.text("name") not in weights:
            facts.refuse("name", f"one of weights, each once: {', '.join(weights)}")
        if facts.text("cache_type") not in CACHE_TYPES:
            facts.refuse("cache_type", " or ".join(CACHE_TYPES))
        types[facts.text("name")] = facts.text("cache_type")
    if missing := [name for name in weights if name not in types]:
        raise BundleError(f"{where} lacks {missing[0]}, which weights has; {REMEDY}")
    exact_first = [name for name in PRECISIONS if name in types]
    if [name for name in types if name in PRECISIONS] != exact_first:
        raise BundleError(
            f"{where} are {', '.join(types)}, not the most exact first: {', '.join(exact_first)}; {REMEDY}"
        )
    return MappingProxyType(types)


def _trained_sha256(manifest: JsonObject, files: Mapping[str, SealedFile]) -> str | None:
    """The hash of the tokenizer.json, if the manifest records that its merges are as trained."""
    if manifest.get("tokenizer") is None or "tokenizer.json" not in files:
        return None
    trained = manifest.object("tokenizer").flag("merges_as_trained", default=False)
    return files["tokenizer.json"].sha256 if trained else None


def _texts(fields: JsonObject) -> Mapping[str, str]:
    return MappingProxyType({name: fields.text(name) for name in fields})


def _optional_text(fields: JsonObject, name: str) -> str | None:
    return None if fields.get(name) is None else fields.text(name)


def _optional_object(fields: JsonObject, name: str) -> Mapping[str, object] | None:
    return None if fields.get(name) is None else MappingProxyType(dict(fields.object(name).fields))


def _optional_id(fields: JsonObject, name: str) -> int | None:
    return None if fields.get(name) is None else fields.integer(name, maximum=MOST_SIZE)


def _ids(fields: JsonObject, name: str) -> tuple[int, ...]:
    """The ids of a field that is an id, a list of ids or null, as transformers writes `eos_token_id`."""
    value = fields.get(name)
    if not isinstance(value, list):
        one = _optional_id(fields, name)
        return () if one is None else (one,)
    if any(isinstance(each, bool) or not isinstance(each, int) or not 0 <= each <= MOST_SIZE for each in value):
        fields.refuse(name, "an id, a list of ids or null")
    return tuple(value)


def _architecture(config: JsonObject) -> Architecture:
    if config.get("model_type") != "gpt2":
        config.refuse("model_type", '"gpt2"')
    sizes = {name: config.integer(name, minimum=1, maximum=MOST_SIZE) for name in Architecture.__dataclass_fields__}
    architecture = Architecture(**sizes)
    if architecture.n_embd % architecture.n_head:
        config.refuse("n_embd", f"a multiple of n_head, which is {architecture.n_head}")
    return architecture
