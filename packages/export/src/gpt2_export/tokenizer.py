"""Tokenizer files: taken as they are, and the missing ones made from those that are there.

transformers and this project's runtime read vocab.json and merges.txt, or tokenizer.json; onnxruntime-genai and
transformers.js read tokenizer.json and tokenizer_config.json. All are written, whichever the source has.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from gpt2_model.checkpoint import read_json
from gpt2_model.errors import ConfigError
from tokenizers import ByteLevelBPETokenizer, Tokenizer

from gpt2_export import tokenizer_settings
from gpt2_export.errors import FolderError
from gpt2_export.tokenizer_settings import ADDED, END_OF_TEXT, REMEDY, SPECIAL, TOKENIZER_CONFIG, checked_ids

VOCAB, MERGES, TOKENIZER, TEMPLATE = "vocab.json", "merges.txt", "tokenizer.json", "chat_template.jinja"
FILES = (VOCAB, MERGES, TOKENIZER, TOKENIZER_CONFIG, SPECIAL, ADDED, TEMPLATE)
LFS_POINTER = b"version https://git-lfs"


def copy(source: Path, folder: Path, config: dict[str, Any]) -> list[str]:
    """Brings the tokenizer of a checkpoint into the folder and completes it; returns warnings.

    Raises:
        ConfigError: a file is not JSON.
        FolderError: a file is what it stands for no more, or says what no tokenizer.json of a GPT-2 can.
    """
    present = [name for name in FILES if (source / name).exists()]
    if not {VOCAB, MERGES} <= {*present} and TOKENIZER not in present:
        return [f"the source has no {VOCAB} with {MERGES}, and no {TOKENIZER}: the folder takes token ids only"]
    for name in present:
        _refuse_damaged(source / name)
    for name in present:
        shutil.copyfile(source / name, folder / name)
    if TOKENIZER not in present:
        _json_from_pair(source, folder, config.get("tokenizer_class"))
    loaded = _loaded(source, folder)
    if not {VOCAB, MERGES} <= {*present}:
        _pair_from_json(source, folder)
    if TOKENIZER_CONFIG not in present:
        _write_config(source, folder, config)
    return _check_size(source, folder, loaded, config["vocab_size"])


def _refuse_damaged(path: Path) -> None:
    """A copied file is sealed as it is, so it is read first."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}") from error
    if start == LFS_POINTER:
        raise FolderError(f"{path} is a pointer of git-lfs, not the file itself; run git lfs pull where it was cloned")
    if path.suffix == ".json":
        try:
            read_json(path)
        except ConfigError as error:
            raise ConfigError(f"{error}; download it again") from error


def _loaded(source: Path, folder: Path) -> Tokenizer:
    """The folder's tokenizer.json, as the library reads it; complaints name the source's."""
    path = source / TOKENIZER
    document = read_json(folder / TOKENIZER)
    model = document.get("model")
    if not isinstance(model, dict) or model.get("type") not in (None, "BPE") or not {"vocab", "merges"} <= model.keys():
        raise FolderError(f"{path} is no BPE tokenizer; GPT-2 needs one")
    checked_ids(path, model["vocab"])
    try:
        loaded = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the library raises plain Exceptions
        raise FolderError(f"{path} cannot be loaded as a tokenizer: {error}; download it again") from error
    for token in document.get("added_tokens", ()):
        _refuse_other_id(path, token["content"], token["id"], loaded)
    return loaded


def _refuse_other_id(path: Path, token: str, expected: int, tokenizer: Tokenizer | ByteLevelBPETokenizer) -> None:
    found = tokenizer.token_to_id(token)
    if found != expected:  # the library counts on from the last id
        raise FolderError(f"{path}: {token!r} has id {expected}, after {VOCAB} it would be {found}; {REMEDY}")


def _pair_from_json(source: Path, folder: Path) -> None:
    document = read_json(source / TOKENIZER)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in document["model"]["merges"]]
    added = {token["content"]: token["id"] for token in document.get("added_tokens", ())}
    vocab = document["model"]["vocab"] | added
    (folder / VOCAB).write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / MERGES).write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def _json_from_pair(source: Path, folder: Path, tokenizer_class: str | None) -> None:
    vocab = checked_ids(source / VOCAB, read_json(source / VOCAB))
    settings = tokenizer_settings.read(source, vocab, tokenizer_class)
    try:
        tokenizer = ByteLevelBPETokenizer(
            str(source / VOCAB), str(source / MERGES), add_prefix_space=settings.add_prefix_space
        )
    except Exception as error:  # the library raises plain Exceptions
        raise ConfigError(f"{source / VOCAB} and {source / MERGES} are no BPE tokenizer: {error}") from error
    for added in settings.added:
        (tokenizer.add_special_tokens if added.token.special else tokenizer.add_tokens)([added.token])
        if added.id is not None and added.where is not None:
            _refuse_other_id(added.where, added.token.content, added.id, tokenizer)
    tokenizer.save(str(folder / TOKENIZER))


def _write_config(source: Path, folder: Path, config: dict[str, Any]) -> None:
    document: dict[str, Any] = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": config["n_positions"],
        "add_prefix_space": False,
    }
    if END_OF_TEXT in read_json(folder / VOCAB):
        document |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    document |= tokenizer_settings.special_names(source)  # of which not every runtime reads the file
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _check_size(source: Path, folder: Path, loaded: Tokenizer, vocab_size: int) -> list[str]:
    ids = {*loaded.get_vocab(with_added_tokens=True).values()}
    ids |= {*checked_ids(source / VOCAB, read_json(folder / VOCAB)).values()}
    if (folder / ADDED).exists():
        ids |= {*checked_ids(source / ADDED, read_json(folder / ADDED)).values()}
    highest = max(ids, default=-1)
    if highest < vocab_size:
        return []
    return [f"the tokenizer has ids up to {highest}, the model only up to {vocab_size - 1}: text with those will fail"]
