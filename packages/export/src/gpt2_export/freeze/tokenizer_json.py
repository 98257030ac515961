"""A source's whole tokenizer as one tokenizer.json, merged from all files as transformers 5 does."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from gpt2_model.errors import ConfigError
from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer, normalizers, pre_tokenizers, processors

from gpt2_export.errors import FolderError
from gpt2_export.freeze.tokenizer_settings import REMEDY, TOKENIZER, TOKENIZER_CONFIG, Settings

VOCAB, MERGES = "vocab.json", "merges.txt"

# The fields of a tokenizer.json's model that GPT2Tokenizer reads, with their defaults.
MODEL_OPTIONS: dict[str, tuple[object, ...]] = {
    "type": (None, "BPE"),  # GPT-2's own early file has none
    "dropout": (None, 0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}
NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD")
PROCESSORS = (None, "ByteLevel", "TemplateProcessing", "RobertaProcessing", "BertProcessing")


def of_pair(source: Path, vocab: Mapping[str, int], settings: Settings) -> dict[str, Any]:
    """The tokenizer of vocab.json, merges.txt and the files beside them."""
    _refuse_shared_ids(source / VOCAB, vocab)
    options = {"add_prefix_space": settings.add_prefix_space}
    text = (source / MERGES).read_text(encoding="utf-8-sig").replace("\r\n", "\n").removesuffix("\n")
    lines = [line for line in text.split("\n") if not line.startswith("#version")] if text else []
    try:
        pairs = [(left, right) for left, right in (line.split(" ") for line in lines)]
        made = ByteLevelBPETokenizer(dict(vocab), pairs, **options)
    except Exception as error:  # the library raises plain Exceptions
        raise ConfigError(f"{source / VOCAB} and {source / MERGES} are not a BPE tokenizer: {error}") from error
    tokenizer = Tokenizer.from_str(made.to_str())
    _add(source / TOKENIZER, tokenizer, settings)
    if settings.begins or settings.ends:
        tokenizer.post_processor = _template(source / TOKENIZER_CONFIG, tokenizer, settings)
    document = json.loads(tokenizer.to_str())
    return _with_added(document, document, tokenizer)


def rebuilt(source: Path, whole: Mapping[str, Any], settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """tokenizer.json as transformers' GPT2Tokenizer reads it: vocabulary, merges, post-processor; and warnings."""
    document = dict(whole)
    model = whole["model"]
    document["model"] = {
        name: value if value in MODEL_OPTIONS.get(name, (value,)) else MODEL_OPTIONS[name][-1]
        for name, value in model.items()
    }
    document |= {name: None for name in ("normalizer", "truncation", "padding") if whole.get(name) is not None}
    byte_level = whole.get("pre_tokenizer")
    if not _is_byte_level(byte_level) or byte_level.get("add_prefix_space", True) != settings.add_prefix_space:
        new = pre_tokenizers.ByteLevel(add_prefix_space=settings.add_prefix_space)
        document["pre_tokenizer"] = json.loads(new.__getstate__())
    if not isinstance(whole.get("decoder"), dict) or whole["decoder"].get("type") != "ByteLevel":
        document["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    left_out = [name for name in ("normalizer", "pre_tokenizer", "decoder", "model") if _differs(whole, document, name)]
    tokenizer = load(source / TOKENIZER, {**document, "added_tokens": []})
    _refuse_shared_ids(source / TOKENIZER, document["model"]["vocab"])
    _add(source / TOKENIZER, tokenizer, settings)
    warnings = [
        f"{source / TOKENIZER}: {name} was left out, as transformers' GPT2Tokenizer leaves it out; "
        "PreTrainedTokenizerFast as tokenizer_class in tokenizer_config.json would keep it"
        for name in left_out
    ]
    return _with_added(document, whole, tokenizer), warnings


def kept(source: Path, whole: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """tokenizer.json as transformers' PreTrainedTokenizerFast reads it: unchanged, plus what the other files add."""
    document = dict(whole) | {name: None for name in ("truncation", "padding") if whole.get(name) is not None}
    tokenizer = load(source / TOKENIZER, document)
    _add(source / TOKENIZER, tokenizer, settings)
    return _with_added(document, whole, tokenizer)


def load(path: Path, document: Mapping[str, Any]) -> Tokenizer:
    """Loads a tokenizer.json document with the tokenizers library; `path` is for messages."""
    try:
        return Tokenizer.from_str(json.dumps(document))
    except Exception as error:  # the library raises plain Exceptions
        raise FolderError(f"{path} cannot be loaded as a tokenizer: {error}; download it again") from error


def _refuse_shared_ids(path: Path, vocab: Mapping[str, int]) -> None:
    """Refuses two tokens with one id: the library keeps either, by chance."""
    if shared := _shared_ids(vocab):
        first, second = shared
        raise ConfigError(f"{path}: {first!r} and {second!r} have the same id, {vocab[first]}; give each its own")


def _shared_ids(vocab: Mapping[str, int]) -> tuple[str, str] | None:
    """Two tokens with the same id; None if there are none.

    >>> _shared_ids({"a": 0, "b": 1, "c": 0})
    ('a', 'c')
    """
    tokens: dict[int, str] = {}
    for token, id_ in vocab.items():
        if tokens.setdefault(id_, token) != token:
            return tokens[id_], token
    return None


def unread(document: Mapping[str, Any]) -> str | None:
    """The parts of a tokenizer.json that gpt2-runtime cannot read; None if it reads all."""
    return next(_unread(document), None)


def _unread(document: Mapping[str, Any]) -> Iterator[str]:
    model = document["model"]
    for name, values in MODEL_OPTIONS.items():
        if model.get(name) not in values:
            yield f"model {name} {model[name]!r}"
    if not {"vocab", "merges"} <= model.keys():
        yield "model without merges"
        return
    if _shared_ids(model["vocab"]):
        yield "two tokens with one id"
    missing = set(pre_tokenizers.ByteLevel.alphabet()) - model["vocab"].keys()
    if missing:
        yield f"vocabulary without {len(missing)} of the 256 bytes"
    if not _is_byte_level(document.get("pre_tokenizer")):
        yield f"pre_tokenizer {_kind(document.get('pre_tokenizer'))}"
    yield from (
        f"normalizer {kind}" for kind in _kinds(document, "normalizer", "normalizers") if kind not in NORMALIZERS
    )
    kinds = _kinds(document, "post_processor", "processors")
    yield from (f"post_processor {kind}" for kind in kinds if kind not in PROCESSORS)
    if len([kind for kind in kinds if kind != "ByteLevel"]) > 1:
        yield f"post_processor of {' and '.join(map(str, kinds))}"
    if _kind(document.get("decoder")) not in ("None", "ByteLevel"):
        yield f"decoder {_kind(document['decoder'])}"
    added = document.get("added_tokens") or []
    yield from (f"single_word of {token['content']!r}" for token in added if token.get("single_word"))
    normal = [
        _normal(_kinds(document, "normalizer", "normalizers"), token["content"])
        for token in added
        if token.get("normalized", not token.get("special", False))
    ]
    if len(set(normal)) < len(normal):
        yield "added tokens with the same normal form"


def _normal(forms: Iterable[str], text: str) -> str:
    for form in forms:
        text = getattr(normalizers, form)().normalize_str(text) if form in NORMALIZERS else text
    return text


def _is_byte_level(part: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(part, dict) and part.get("type") == "ByteLevel" and part.get("use_regex", True) is True


def _kind(part: Any) -> str:
    return str(part.get("type")) if isinstance(part, dict) else str(part)


def _kinds(document: Mapping[str, Any], name: str, parts: str) -> list[str]:
    part = document.get(name)
    if part is None:
        return []
    return [_kind(each) for each in part.get(parts, ())] if _kind(part) == "Sequence" else [_kind(part)]


def _differs(whole: Mapping[str, Any], document: Mapping[str, Any], name: str) -> bool:
    """Whether a part was replaced by a different one; the prefix space is ignored, it has its own field."""
    before, after = (
        {"use_regex": True} | part if _is_byte_level(part) else part for part in (whole.get(name), document.get(name))
    )
    if name == "pre_tokenizer" and _is_byte_level(before):
        return False
    return before is not None and before != after


def _add(path: Path, tokenizer: Tokenizer, settings: Settings) -> None:
    """Adds tokens one by one as transformers does, and checks them against the ids in the files."""
    names = {token: name for name, token in settings.named.items() if token is not None}
    for one in settings.added:
        one.token.special = one.token.special or one.token.content in names
        tokenizer.add_tokens([one.token])
    for one in settings.added:
        found = tokenizer.token_to_id(one.token.content)
        if one.id is not None and found != one.id:  # the library continues from the last id
            detail = f"{one.token.content!r} has id {one.id}, after {VOCAB} it would be {found}"
            raise FolderError(f"{one.where}: {detail}; {REMEDY}")
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.content in names and not _is_special(tokenizer, token):
            detail = f"{token.content!r} is not special, but tokenizer_config.json has it as {names[token.content]}"
            raise FolderError(f"{path}: {detail}; {REMEDY}")


def _is_special(tokenizer: Tokenizer, token: AddedToken) -> bool:
    """Whether it is skipped in decoded text: to the library a token that was once special stays special."""
    id_ = tokenizer.token_to_id(token.content)
    return token.special or id_ is None or not tokenizer.decode([id_], skip_special_tokens=True)


def _template(path: Path, tokenizer: Tokenizer, settings: Settings) -> processors.TemplateProcessing:
    bos = settings.named["bos_token"] if settings.begins else None
    eos = settings.named["eos_token"] if settings.ends else None
    for token in (bos, eos):
        if token is not None and (":" in token or token.split() != [token] or token.startswith("$")):
            raise FolderError(f"{path}: {token!r} cannot frame each text, as add_bos_token requires; {REMEDY}")
    single = " ".join(f"{part}:0" for part in (bos, "$A", eos) if part is not None)
    second = " ".join(f"{part}:1" for part in (bos, "$B", eos) if part is not None)
    special = [(token, int(tokenizer.token_to_id(token) or 0)) for token in {bos, eos} if token is not None]
    return processors.TemplateProcessing(single=single, pair=f"{single} {second}", special_tokens=special)


def _with_added(document: dict[str, Any], whole: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """The document with the tokenizer's added tokens; the source's own list if it is the same."""
    special = {id_: _is_special(tokenizer, token) for id_, token in tokenizer.get_added_tokens_decoder().items()}
    new = [token | {"special": special[token["id"]]} for token in json.loads(tokenizer.to_str())["added_tokens"]]
    listed = whole.get("added_tokens") or []
    same = [dict.fromkeys(("single_word", "lstrip", "rstrip"), False) | token for token in listed]
    return document if same == new else {**document, "added_tokens": new}
