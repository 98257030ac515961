"""Tokenizer files: merged as transformers merges them, and written so that every reader agrees.

transformers and this project's runtime read vocab.json and merges.txt, or tokenizer.json; onnxruntime-genai and
transformers.js read tokenizer.json and tokenizer_config.json. All are written, whichever the source has. A source file
that already has the right content is copied byte for byte, without its byte order mark.
"""

import codecs
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2_model.checkpoint import read_json
from gpt2_model.errors import ConfigError
from gpt2_model.text_file import read_text, refuse_irregular, refuse_unreadable

from gpt2_export.errors import FolderError
from gpt2_export.freeze import tokenizer_json, tokenizer_settings
from gpt2_export.freeze.tokenizer_json import MERGES, VOCAB
from gpt2_export.freeze.tokenizer_settings import (
    ADDED,
    ADDITIONAL,
    DECODER,
    EXTRA,
    GPT2_CLASSES,
    NAMES,
    OWN,
    SPECIAL,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WHOLE_CLASSES,
    Settings,
    checked_ids,
    tokenizer_class,
)

TEMPLATE = "chat_template.jinja"
FILES = (VOCAB, MERGES, TOKENIZER, TOKENIZER_CONFIG, SPECIAL, ADDED, TEMPLATE)
OTHER_FILES = ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")  # other tokenizers
LFS_POINTER = b"version https://git-lfs"
MERGED = (DECODER, EXTRA, ADDITIONAL, OWN, "add_bos_token", "add_eos_token")  # fields that move into tokenizer.json
IDS_ONLY = "the folder takes token ids only"


@dataclass(frozen=True, kw_only=True)
class Made:
    """The tokenizer of a frozen folder.

    Attributes:
        document: its tokenizer.json; None if the source's tokenizer is of another kind or absent.
        named: bos_token and the like -> their tokens, None for those that are absent.
        additional: special tokens without a name.
        warnings: for the user.
    """

    document: Mapping[str, Any] | None
    named: Mapping[str, str | None] = field(default_factory=dict)
    additional: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def id_of(self, token: str) -> int | None:
        """The id of a token; None if there is none."""
        if self.document is None:
            return None
        added = {one["content"]: one["id"] for one in self.document.get("added_tokens") or ()}
        vocab = self.document["model"]["vocab"]
        return added.get(token, vocab.get(token) if isinstance(vocab, dict) else None)


def copy(source: Path, folder: Path, config: Mapping[str, Any]) -> Made:
    """Writes a checkpoint's whole tokenizer into the folder, in every file that describes it.

    Args:
        source: the checkpoint's folder.
        folder: the frozen one.
        config: its config.json.

    Raises:
        ConfigError: a file is not JSON.
        FolderError: a file is damaged, or has a setting that no tokenizer.json can hold.
    """
    made = put_together(source, config)
    present = _present(source)
    if made.document is None:
        for name in present if {TOKENIZER, *OTHER_FILES} & {*present} else ():
            shutil.copyfile(source / name, folder / name)
        return made
    before = read_json(source / TOKENIZER) if TOKENIZER in present else None
    _write(source / TOKENIZER, folder / TOKENIZER, made.document, before=before)
    if "merges" in made.document["model"]:
        _write_pair(source, folder, made.document)
    _write_config(source, folder, config, made)
    if TEMPLATE in present:
        shutil.copyfile(source / TEMPLATE, folder / TEMPLATE)
    return made


def put_together(source: Path, config: Mapping[str, Any]) -> Made:
    """The tokenizer that transformers builds from a checkpoint's files; errors are those of `copy`."""
    present = _present(source)
    for name in present:
        _refuse_damaged(source / name)
    other = _other_kind(source, present, config)
    if other is not None:
        return Made(document=None, warnings=(other,))
    whole = read_json(source / TOKENIZER) if TOKENIZER in present else None
    settings, document, warnings = _merge(source, config, whole)
    warnings += _size_warnings(document, config["vocab_size"])
    reason = tokenizer_json.unread(document)
    if reason is not None:
        where = source / (VOCAB if whole is None else TOKENIZER)
        warnings.append(f"{where}: gpt2-runtime does not read {reason}, so there {IDS_ONLY}")
    return Made(document=document, named=settings.named, additional=settings.additional, warnings=tuple(warnings))


def _present(source: Path) -> list[str]:
    return [name for name in (*FILES, *OTHER_FILES) if os.path.lexists(source / name)]  # a broken link is refused


def _refuse_damaged(path: Path) -> None:
    """Copied files are hashed as they are, so they are checked first."""
    try:
        (refuse_irregular if path.name in OTHER_FILES else refuse_unreadable)(path, path.stat())
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}") from error
    if start == LFS_POINTER:
        raise FolderError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` where it was cloned")
    try:
        if path.suffix == ".json":
            read_json(path)
        elif path.name not in OTHER_FILES:
            read_text(path)
    except ConfigError as error:
        raise ConfigError(f"{error}; download it again") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 at byte {error.start}; download it again") from error


def _other_kind(source: Path, present: list[str], config: Mapping[str, Any]) -> str | None:
    """Why a source's tokenizer is not of the supported kind; None if it is."""
    pair = {VOCAB, MERGES} <= {*present}
    if not pair and TOKENIZER not in present:
        other = [name for name in OTHER_FILES if name in present]
        if other:
            return f"{source / other[0]} is of a tokenizer that gpt2-runtime does not read, so there {IDS_ONLY}"
        return f"the source has no {VOCAB} with {MERGES}, and no {TOKENIZER}, so {IDS_ONLY}"
    where, name = tokenizer_class(source, config)
    known = GPT2_CLASSES + (WHOLE_CLASSES if TOKENIZER in present else ())
    if name not in known:
        return f"{where}: tokenizer_class {name!r} is not read, only {', '.join(known)}; in gpt2-runtime {IDS_ONLY}"
    if "auto_map" in tokenizer_settings.document(source / TOKENIZER_CONFIG):
        return f"{source / TOKENIZER_CONFIG}: auto_map names the checkpoint's own code, which is not run, so {IDS_ONLY}"
    if TOKENIZER not in present:
        return None
    model = read_json(source / TOKENIZER).get("model")
    if not isinstance(model, dict):
        raise FolderError(f"{source / TOKENIZER} is not a tokenizer: model is not an object; download it again")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if name in GPT2_CLASSES and kind != "BPE":
        what = f"{kind} tokenizer" if kind else "tokenizer of another kind"
        return f"{source / TOKENIZER} is a {what}, which gpt2-runtime does not read, so there {IDS_ONLY}"
    if kind == "BPE" and not {"vocab", "merges"} <= model.keys():
        raise FolderError(f"{source / TOKENIZER} is not a BPE tokenizer: it lacks vocab or merges; download it again")
    return None


def _merge(
    source: Path, config: Mapping[str, Any], whole: Mapping[str, Any] | None
) -> tuple[Settings, dict[str, Any], list[str]]:
    if whole is None:
        vocab = checked_ids(source / VOCAB, read_json(source / VOCAB))
        settings = tokenizer_settings.read(source, vocab, config)
        return settings, tokenizer_json.of_pair(source, vocab, settings), []
    _refuse_odd_tokens(source / TOKENIZER, whole)
    vocab = whole["model"]["vocab"]
    if isinstance(vocab, dict):
        checked_ids(source / TOKENIZER, vocab)
    tokenizer_json.load(source / TOKENIZER, whole)  # complaints about the file itself come first
    settings = tokenizer_settings.read(source, vocab if isinstance(vocab, dict) else {}, config, whole)
    if tokenizer_class(source, config)[1] in WHOLE_CLASSES:
        return settings, tokenizer_json.kept(source, whole, settings), []
    return settings, *tokenizer_json.rebuilt(source, whole, settings)


def _refuse_odd_tokens(path: Path, whole: Mapping[str, Any]) -> None:
    added = whole.get("added_tokens", [])
    if not isinstance(added, list) or not all(isinstance(token, dict) and "content" in token for token in added):
        raise FolderError(f"{path} has invalid added_tokens; download it again")
    checked_ids(path, {token["content"]: token.get("id") for token in added})


def _write(
    source: Path, target: Path, document: Mapping[str, Any], *, before: Mapping[str, Any] | None, indent: int | None = 2
) -> None:
    """Writes the source's own bytes, without a byte order mark, if the content is the same."""
    if before == document:
        target.write_bytes(source.read_bytes().removeprefix(codecs.BOM_UTF8))
    else:
        end = "\n" if target.name == TOKENIZER_CONFIG else ""
        target.write_text(json.dumps(document, indent=indent, ensure_ascii=False) + end, encoding="utf-8")


def _write_pair(source: Path, folder: Path, document: Mapping[str, Any]) -> None:
    model = document["model"]
    vocab = model["vocab"] | {token["content"]: token["id"] for token in document.get("added_tokens") or ()}
    before = read_json(source / VOCAB) if (source / VOCAB).exists() else None
    if before == model["vocab"]:
        vocab = before  # as in GPT-2's own: its one added token is in the vocabulary
    _write(source / VOCAB, folder / VOCAB, vocab, before=before, indent=None)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    try:
        text = (source / MERGES).read_text(encoding="utf-8-sig")
    except (OSError, ValueError):
        text = ""
    same = [line for line in text.replace("\r\n", "\n").split("\n") if line and not line.startswith("#version")]
    if same != merges:
        text = "\n".join(["#version: 0.2", *merges, ""])
    (folder / MERGES).write_bytes(text.encode())


def _write_config(source: Path, folder: Path, config: Mapping[str, Any], made: Made) -> None:
    """tokenizer_config.json: the source's, with the named tokens, and without what tokenizer.json holds."""
    assert made.document is not None
    before = tokenizer_settings.document(source / TOKENIZER_CONFIG)
    kind = tokenizer_class(source, config)[1]
    defaults: dict[str, Any] = {"tokenizer_class": kind, "model_max_length": config["n_positions"]}
    after = defaults | {name: value for name, value in before.items() if not _is_merged(name, value)}
    pre_tokenizer = made.document.get("pre_tokenizer") or {}
    if pre_tokenizer.get("type") == "ByteLevel":
        after["add_prefix_space"] = pre_tokenizer.get("add_prefix_space", True)
    # transformers' GPT2Tokenizer has a default for an absent one.
    absent = NAMES[:3] if kind in GPT2_CLASSES else ()
    after |= {name: token for name, token in made.named.items() if token is not None or name in absent}
    if made.additional:
        after[ADDITIONAL] = list(made.additional)
    if after.get("clean_up_tokenization_spaces"):
        after["clean_up_tokenization_spaces"] = False  # as in transformers 5 for every BPE
    exists = (source / TOKENIZER_CONFIG).exists()
    _write(source / TOKENIZER_CONFIG, folder / TOKENIZER_CONFIG, after, before=before if exists else None)


def _is_merged(name: str, value: Any) -> bool:
    """Whether tokenizer.json or the named tokens already hold a field."""
    return name in MERGED or (name.endswith("_token") and isinstance(value, str | dict | None))


def _size_warnings(document: Mapping[str, Any], vocab_size: int) -> list[str]:
    vocab = document["model"]["vocab"]
    ids = [token["id"] for token in document.get("added_tokens") or ()]
    ids += vocab.values() if isinstance(vocab, dict) else range(len(vocab))
    highest = max(ids, default=-1)
    if highest < vocab_size:
        return []
    return [f"the tokenizer has ids up to {highest}, the model only up to {vocab_size - 1}: text with those will fail"]
