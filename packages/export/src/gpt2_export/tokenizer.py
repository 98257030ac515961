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
from tokenizers import AddedToken, ByteLevelBPETokenizer

from gpt2_export.errors import FolderError

VOCAB, MERGES, TOKENIZER, TOKENIZER_CONFIG = "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"
ADDED = "added_tokens.json"
FILES = (VOCAB, MERGES, TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", ADDED)
END_OF_TEXT = "<|endoftext|>"


def copy(source: Path, folder: Path, config: dict[str, Any]) -> list[str]:
    """Brings the tokenizer of a checkpoint into the folder and completes it; returns warnings.

    Raises:
        ConfigError: a file is not JSON.
        FolderError: tokenizer.json is no BPE.
    """
    for name in FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    has_pair, has_json = all((folder / name).exists() for name in (VOCAB, MERGES)), (folder / TOKENIZER).exists()
    if not has_pair and not has_json:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        return [f"the source has no {VOCAB} with {MERGES}, and no {TOKENIZER}: the folder takes token ids only"]
    if not has_pair:
        _pair_from_json(folder)
    if not has_json:
        _json_from_pair(folder)
    if not (folder / TOKENIZER_CONFIG).exists():
        _write_config(folder, config)
    return _check_size(folder, config["vocab_size"])


def _pair_from_json(folder: Path) -> None:
    document = read_json(folder / TOKENIZER)
    model = document.get("model")
    if not isinstance(model, dict) or model.get("type") not in (None, "BPE") or not {"vocab", "merges"} <= model.keys():
        raise FolderError(f"{folder / TOKENIZER} is no BPE tokenizer; GPT-2 needs one")
    try:
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        added = {token["content"]: token["id"] for token in document.get("added_tokens") or ()}
    except (TypeError, LookupError) as error:
        raise FolderError(
            f"{folder / TOKENIZER} is damaged: a merge or an added token is not what it must be"
        ) from error
    vocab = _checked_vocab(folder / TOKENIZER, model["vocab"]) | _checked_vocab(folder / TOKENIZER, added)
    (folder / VOCAB).write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / MERGES).write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def _json_from_pair(folder: Path) -> None:
    vocab = _checked_vocab(folder / VOCAB, read_json(folder / VOCAB))
    try:
        tokenizer = ByteLevelBPETokenizer(str(folder / VOCAB), str(folder / MERGES))
    except Exception as error:  # the library raises plain Exceptions
        raise ConfigError(f"{folder / VOCAB} and {folder / MERGES} are no BPE tokenizer: {error}") from error
    if END_OF_TEXT in vocab:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=True)])
    added = read_json(folder / ADDED) if (folder / ADDED).exists() else {}
    for token, expected in sorted(_checked_vocab(folder / ADDED, added).items(), key=lambda item: item[1]):
        tokenizer.add_special_tokens([token])
        if tokenizer.token_to_id(token) != expected:  # the library counts on from the last id
            found = tokenizer.token_to_id(token)
            raise FolderError(f"{folder / ADDED}: {token!r} has id {expected}, after {VOCAB} it would be {found}")
    tokenizer.save(str(folder / TOKENIZER))


def _checked_vocab(path: Path, vocab: Any) -> dict[str, int]:
    if not isinstance(vocab, dict) or not all(type(number) is int and number >= 0 for number in vocab.values()):
        raise FolderError(f"{path} has tokens whose ids are no whole numbers; download it again")
    return vocab


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    document: dict[str, Any] = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": config["n_positions"],
        "add_prefix_space": False,
    }
    if END_OF_TEXT in read_json(folder / VOCAB):
        document |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _check_size(folder: Path, vocab_size: int) -> list[str]:
    highest = max(_checked_vocab(folder / VOCAB, read_json(folder / VOCAB)).values(), default=-1)
    if highest < vocab_size:
        return []
    return [f"the tokenizer has ids up to {highest}, the model only up to {vocab_size - 1}: text with those will fail"]
