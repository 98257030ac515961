"""What a source without a tokenizer.json says of its tokenizer beside vocab.json and merges.txt.

Read as transformers 5 reads it, in its order, for the order gives the ids: first the tokens that have one, then the
named ones, then the additional ones. With an `added_tokens_decoder`, the two older files do not count.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gpt2_model.checkpoint import read_json
from tokenizers import AddedToken

from gpt2_export.errors import FolderError

TOKENIZER_CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
END_OF_TEXT = "<|endoftext|>"
DECODER, ADDITIONAL, EXTRA = "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
DEFAULTS = dict.fromkeys(NAMES[:3], END_OF_TEXT)  # of transformers' GPT2Tokenizer
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
REMEDY = "save the tokenizer with transformers, which writes a tokenizer.json"

Token = str | AddedToken  # a string is a special token without any other flag


@dataclass(frozen=True, kw_only=True)
class Added:
    """A token that is found in text as a whole.

    Attributes:
        token: its text and flags.
        id: what a file says, None where it is the vocabulary's or the next free one.
        where: the file that says so.
    """

    token: AddedToken
    id: int | None = None
    where: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`add_prefix_space`, and the added tokens in the order in which they get their ids."""

    add_prefix_space: bool
    added: tuple[Added, ...]


def read(source: Path, vocab: Collection[str], tokenizer_class: str | None = None) -> Settings:
    """The settings of a source that has vocab.json and merges.txt alone.

    Args:
        source: the checkpoint's folder.
        vocab: the tokens of its vocab.json.
        tokenizer_class: what its config.json says.

    Raises:
        FolderError: a setting that no tokenizer.json of a GPT-2 can hold, or one that is not what it must be.
    """
    config = _document(source / TOKENIZER_CONFIG)
    _refuse_other_tokenizers(source / TOKENIZER_CONFIG, config, tokenizer_class)
    special = {} if DECODER in config else _document(source / SPECIAL)
    if EXTRA in special:
        _refuse(source / SPECIAL, EXTRA, special[EXTRA], f"named {ADDITIONAL} there; {REMEDY}")
    numbered = _decoder(source, config) if DECODER in config else _legacy(source, config, special)
    have = {added.token.content for added in numbered}
    named = _named(source, config, special, defaults=END_OF_TEXT in vocab or END_OF_TEXT in have)
    tokens: list[Token] = []
    for token in (*named, *_additional(source, config, special)):
        if str(token) not in have and token not in tokens:  # one with other flags is another; the last one counts
            tokens.append(token)
    if END_OF_TEXT not in vocab and END_OF_TEXT not in have:
        _refuse_unsure(source, {str(token) for token in tokens} - {*vocab}, {*config, *special})
    # Alone it may be looked for last, as in GPT-2's own tokenizer.json: no other token can be in its way.
    alone = not numbered and tokens == [END_OF_TEXT]
    unnumbered = [Added(token=_whole(token, normalized=alone)) for token in tokens]
    added = (*numbered, *unnumbered)
    names = set(map(str, named))
    for one in added:
        one.token.special = one.token.special or one.token.content in names
    return Settings(add_prefix_space=config.get("add_prefix_space", False), added=added)


def special_names(source: Path) -> dict[str, str]:
    """bos_token and the like, as special_tokens_map.json has them."""
    named = _tokens_of(source / SPECIAL, _document(source / SPECIAL))
    return {name: str(token) for name, token in named.items() if name in NAMES and token is not None}


def _document(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _refuse_other_tokenizers(path: Path, config: Mapping[str, Any], tokenizer_class: str | None) -> None:
    name = config.get("tokenizer_class") or tokenizer_class
    if name not in (None, "GPT2Tokenizer", "GPT2TokenizerFast"):
        where = path if config.get("tokenizer_class") else path.parent / "config.json"
        _refuse(where, "tokenizer_class", name, f"GPT2Tokenizer; {REMEDY}")
    for flag in ("add_bos_token", "add_eos_token", "split_special_tokens"):
        if config.get(flag):
            _refuse(path, flag, config[flag], f"false, or absent; {REMEDY}")
    if not isinstance(config.get("add_prefix_space", False), bool):
        _refuse(path, "add_prefix_space", config["add_prefix_space"], "true or false; correct it")


def _named(source: Path, config: Mapping[str, Any], special: Mapping[str, Any], *, defaults: bool) -> list[Token]:
    """The tokens that have a name, in transformers' order: its own names, then those of this tokenizer.

    The class's own end of text is left out where nothing has it: no model was trained with it.
    """
    own = {name: value for name, value in config.items() if name not in NAMES and _is_name(name, value, str)}
    others = {name: value for name, value in config.items() if name not in own}
    given = _tokens_of(source / TOKENIZER_CONFIG, others) | _tokens_of(source / SPECIAL, special)
    named = dict.fromkeys(NAMES) | (DEFAULTS if defaults else {}) | given | own
    return [token for token in named.values() if token is not None]


def _tokens_of(path: Path, document: Mapping[str, Any]) -> dict[str, Token | None]:
    typed = path.name == TOKENIZER_CONFIG
    return {
        name: None if value is None else _token(path, name, value, typed=typed)
        for name, value in document.items()
        if name in NAMES or _is_name(name, value, str | dict | None)
    }


def _is_name(name: str, value: Any, kind: Any) -> bool:
    return name.endswith("_token") and isinstance(value, kind)  # add_bos_token is a flag


def _additional(source: Path, config: Mapping[str, Any], special: Mapping[str, Any]) -> list[Token]:
    where, name = source / TOKENIZER_CONFIG, EXTRA if config.get(EXTRA) else ADDITIONAL
    values = config.get(name)
    if not {EXTRA, ADDITIONAL} & config.keys():
        where, values = source / SPECIAL, special.get(ADDITIONAL)
    if not isinstance(values, list | None):
        _refuse(where, name, values, f"a list; {REMEDY}")
    return [_token(where, name, value, typed=True) for value in values or ()]


def _decoder(source: Path, config: Mapping[str, Any]) -> list[Added]:
    path, decoder = source / TOKENIZER_CONFIG, config[DECODER]
    if not isinstance(decoder, dict) or not all(number.isdecimal() for number in decoder):
        _refuse(path, DECODER, decoder, "ids with their tokens; download it again")
    return [
        Added(token=_flagged(path, f"{DECODER}[{number}]", value), id=int(number), where=path)
        for number, value in sorted(decoder.items(), key=lambda item: int(item[0]))
    ]


def _legacy(source: Path, config: Mapping[str, Any], special: Mapping[str, Any]) -> list[Added]:
    """added_tokens.json; what the other files name is special, as far as transformers sees it there."""
    path = source / ADDED
    ids = checked_ids(path, _document(path))
    written = {name: config.get(name) for name in NAMES} | _tokens_of(source / SPECIAL, special)
    named = [written[name] for name in NAMES]
    seen = {str(token) for token in named if isinstance(token, Token)}
    seen |= {token for token in _additional(source, config, {}) if isinstance(token, str)}
    return [
        Added(token=AddedToken(text, normalized=text not in seen, special=text in seen), id=number, where=path)
        for text, number in sorted(ids.items(), key=lambda item: item[1])
    ]


def checked_ids(path: Path, ids: Any) -> dict[str, int]:
    """Tokens and their ids; FolderError where they are something else."""
    if not isinstance(ids, dict) or not all(type(number) is int and number >= 0 for number in ids.values()):
        raise FolderError(f"{path} has tokens whose ids are no whole numbers; download it again")
    return ids


def _refuse_unsure(source: Path, new: set[str], names: set[str]) -> None:
    """Where transformers adds its own end of text, which is left out here, it may count on from it."""
    unsure = sorted(new - {END_OF_TEXT})
    if unsure and not names.issuperset(DEFAULTS):
        raise FolderError(f"{source}: the token {unsure[0]!r} has no id, and vocab.json no {END_OF_TEXT}; {REMEDY}")


def _token(path: Path, name: str, value: Any, *, typed: bool) -> Token:
    """A token as it is written: its text, or an object, which tokenizer_config.json marks with its type."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or (typed and value.get("__type") != "AddedToken"):
        _refuse(path, name, value, f"a token; {REMEDY}")
    return _flagged(path, name, value if typed else value | {"special": True})


def _flagged(path: Path, name: str, value: Any) -> AddedToken:
    flags = {flag: value[flag] for flag in FLAGS if flag in value} if isinstance(value, dict) else {"": None}
    if not all(isinstance(flag, bool) for flag in flags.values()) or not isinstance(value.get("content"), str):
        _refuse(path, name, value, "a token with its content and flags; download it again")
    return AddedToken(value["content"], **flags)


def _whole(token: Token, *, normalized: bool) -> AddedToken:
    return AddedToken(token, special=True, normalized=normalized) if isinstance(token, str) else token


def _refuse(path: Path, name: str, value: Any, wanted: str) -> NoReturn:
    shown = repr(value)
    raise FolderError(f"{path}: {name} is {shown if len(shown) <= 60 else shown[:57] + '...'}, must be {wanted}")
