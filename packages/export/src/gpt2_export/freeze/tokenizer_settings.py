"""A checkpoint's tokenizer settings, merged from all its files as transformers 5 does.

The order is transformers' because it decides the ids: first the tokens that have one, then the named ones, then the
additional ones. If there is an `added_tokens_decoder`, older files and tokenizer.json's added tokens are ignored.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gpt2_model.checkpoint import read_json
from tokenizers import AddedToken

from gpt2_export.errors import FolderError

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"
END_OF_TEXT = "<|endoftext|>"
DECODER, ADDITIONAL, EXTRA = "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"
OWN = "model_specific_special_tokens"
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
DEFAULTS = dict.fromkeys(NAMES[:3], END_OF_TEXT)  # transformers' GPT2Tokenizer's
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
CORRUPT = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
REMEDY = "save the tokenizer with transformers, which writes a tokenizer.json"

GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")
WHOLE_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that read a tokenizer.json unchanged

Token = str | AddedToken  # a string is a special token without any other flag


@dataclass(frozen=True, kw_only=True)
class Added:
    """A token that is matched in text as a whole.

    Attributes:
        token: its text and flags.
        id: from a file; None if it is the vocabulary's or the next free one.
        where: the file that has it.
    """

    token: AddedToken
    id: int | None = None
    where: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything except vocabulary and merges.

    Attributes:
        add_prefix_space: whether GPT2Tokenizer puts a space before each text.
        added: the added tokens, in the order of their ids.
        named: bos_token and the like, and the tokenizer's own names -> their tokens, None for those that are absent.
        additional: special tokens without a name.
        begins, ends: whether bos_token is put before each text, and eos_token after it.
    """

    add_prefix_space: bool
    added: tuple[Added, ...]
    named: Mapping[str, str | None]
    additional: tuple[str, ...]
    begins: bool = False
    ends: bool = False


def tokenizer_class(source: Path, config: Mapping[str, Any]) -> tuple[Path, str]:
    """The class that transformers opens the source's tokenizer with, and the file that names it."""
    named = document(source / TOKENIZER_CONFIG).get("tokenizer_class")
    where = source / (TOKENIZER_CONFIG if named else "config.json")
    return where, named or config.get("tokenizer_class") or GPT2_CLASSES[0]


def read(
    source: Path, vocab: Mapping[str, int], config: Mapping[str, Any], whole: Mapping[str, Any] | None = None
) -> Settings:
    """The settings of a source whose tokenizer is of one of the classes above.

    Args:
        source: the checkpoint's folder.
        vocab: its vocabulary, without added tokens.
        config: its config.json.
        whole: its tokenizer.json; None if it has none.

    Raises:
        FolderError: a setting is invalid, or no tokenizer.json can hold it.
    """
    path, init = source / TOKENIZER_CONFIG, document(source / TOKENIZER_CONFIG)
    rebuilt = tokenizer_class(source, config)[1] in GPT2_CLASSES
    _refuse_flags(path, init)
    begins, ends = (whole is None and bool(init.get(name)) for name in ("add_bos_token", "add_eos_token"))
    if ADDITIONAL in init and not init.get(EXTRA):
        init[EXTRA] = init.pop(ADDITIONAL)
    explicit = {name: init.pop(name) for name in [*init] if name not in NAMES and _is_name(name, init[name], str)}
    if isinstance(init.get(EXTRA), dict):
        explicit |= init.pop(EXTRA)
    explicit = explicit or _own(path, init.get(OWN))
    special = {} if DECODER in init else document(source / SPECIAL)
    init = _merged(source, init, special)
    own = {
        name: init[name] for name in init if name not in NAMES and _is_name(name, init[name], Token | dict)
    } | explicit
    numbered = _decoder(path, init[DECODER]) if DECODER in init else _legacy(source, init, whole)
    known = {one.token.content: one.token for one in numbered}
    stated = {name: _token(source, special, name, init[name], known) for name in NAMES if name in init}
    if not rebuilt and whole and whole.get("padding"):
        stated.setdefault("pad_token", whole["padding"].get("pad_token"))
    absent: dict[str, Token | None] = dict.fromkeys(NAMES)
    named = absent | (DEFAULTS if rebuilt else {}) | stated
    named |= {name: _token(source, special, name, value, {}) for name, value in own.items()}
    additional = [_token(source, special, ADDITIONAL, token, {}) for token in _listed(source, init)]
    without_end = _lacks_end(named, {*vocab, *known}, config)
    if without_end and not {*map(str, stated.values())} & {END_OF_TEXT}:
        named |= dict.fromkeys([name for name in DEFAULTS if name not in stated])
        _refuse_unsure(source, [*named.values(), *additional], {*vocab, *known})
    have = {*known} | (set() if rebuilt else {token["content"] for token in _json_tokens(whole)})
    tokens: list[Token] = []
    for token in (*named.values(), *additional):
        # With other flags it is a different token; the last one counts.
        if token is not None and str(token) not in have and token not in tokens:
            tokens.append(token)
    # Alone it may be matched last, as in GPT-2's own tokenizer.json: no other token can interfere.
    alone = not numbered and tokens == [END_OF_TEXT]
    return Settings(
        add_prefix_space=init.get("add_prefix_space", False),
        added=(*numbered, *(Added(token=_whole(token, normalized=alone)) for token in tokens)),
        named={name: None if token is None else str(token) for name, token in named.items()},
        additional=tuple(map(str, additional)),
        begins=begins,
        ends=ends,
    )


def document(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    return read_json(path) if path.exists() else {}


def _refuse_flags(path: Path, init: Mapping[str, Any]) -> None:
    if init.get("split_special_tokens"):
        value = init["split_special_tokens"]
        _refuse(path, "split_special_tokens", value, "false: no tokenizer.json can hold it; remove it")
    if init.get("clean_up_tokenization_spaces") and init.get(CORRUPT):
        _refuse(path, CORRUPT, init[CORRUPT], "false: the text would lose spaces; remove it")
    if not isinstance(init.get("add_prefix_space", False), bool):
        _refuse(path, "add_prefix_space", init["add_prefix_space"], "true or false; correct it")


def _is_name(name: str, value: Any, kind: Any) -> bool:
    return name.endswith("_token") and isinstance(value, kind)  # add_bos_token is a flag


def _own(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        _refuse(path, OWN, value, f"names with their tokens; {REMEDY}")
    return dict(value or {})


def _merged(source: Path, init: dict[str, Any], special: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json, overridden by special_tokens_map.json."""
    path = source / SPECIAL
    init = dict(init)
    for name, value in special.items():
        if name == EXTRA:
            if not isinstance(value, list):
                _refuse(path, name, value, f"a list; {REMEDY}")
            before = init.get(EXTRA) or []
            init[EXTRA] = [*before, *(token for token in value if token not in before)]
        else:
            init[name] = _flagged(path, name, value | {"special": True}) if isinstance(value, dict) else value
    return init


def _listed(source: Path, init: Mapping[str, Any]) -> list[Any]:
    """The special tokens without a name."""
    name = EXTRA if EXTRA in init else ADDITIONAL
    values = init.get(name)
    if not isinstance(values, list | None):
        _refuse(_where(source, name), name, values, f"a list; {REMEDY}")
    if None in (values or ()):
        _refuse(_where(source, name), name, values, f"a list of tokens; {REMEDY}")
    return values or []


def _where(source: Path, name: str) -> Path:
    written = document(source / TOKENIZER_CONFIG)
    return source / (TOKENIZER_CONFIG if name in written or ADDITIONAL in written else SPECIAL)


def _token(
    source: Path, special: Mapping[str, Any], name: str, value: Any, known: Mapping[str, AddedToken]
) -> Token | None:
    """A token as written in a file: its text, or an object, which tokenizer_config.json marks with its type."""
    if value is None:
        return None
    if isinstance(value, str):
        return known.get(value, value)
    if isinstance(value, AddedToken):
        return known.get(value.content, value)
    path = source / (SPECIAL if name in special else TOKENIZER_CONFIG)
    if not isinstance(value, dict) or value.get("__type") != "AddedToken":
        _refuse(path, name, value, f"a token; {REMEDY}")
    token = _flagged(path, name, value)
    return known.get(token.content, token)


def _decoder(path: Path, decoder: Any) -> list[Added]:
    if not isinstance(decoder, dict) or not all(number.isdecimal() for number in decoder):
        _refuse(path, DECODER, decoder, "ids with their tokens; download it again")
    return [
        Added(token=_flagged(path, f"{DECODER}[{number}]", value), id=int(number), where=path)
        for number, value in sorted(decoder.items(), key=lambda item: int(item[0]))
    ]


def _legacy(source: Path, init: Mapping[str, Any], whole: Mapping[str, Any] | None) -> list[Added]:
    """added_tokens.json, overridden by tokenizer.json's; tokens that other files name are special in transformers."""
    path = source / ADDED
    special = {str(init[name]) for name in NAMES if init.get(name)}
    special |= {token for token in init.get(EXTRA) or [] if isinstance(token, str)}
    tokens = {
        number: Added(
            token=AddedToken(text, normalized=text not in special, special=text in special), id=number, where=path
        )
        for text, number in checked_ids(path, document(path)).items()
    }
    path = source / TOKENIZER
    for value in _json_tokens(whole):
        before = tokens.get(value["id"])
        if before is not None and before.token.content != value["content"]:
            detail = f"id {value['id']} is {before.token.content!r}, in {TOKENIZER} it is {value['content']!r}"
            raise FolderError(f"{before.where}: {detail}; remove one of them")
        tokens[value["id"]] = Added(token=_flagged(path, "added_tokens", value), id=value["id"], where=path)
    return [tokens[number] for number in sorted(tokens)]


def _json_tokens(whole: Mapping[str, Any] | None) -> list[Any]:
    return [] if whole is None else whole.get("added_tokens") or []


def checked_ids(path: Path, ids: Any) -> dict[str, int]:
    """Tokens and their ids; FolderError if they are anything else."""
    if not isinstance(ids, dict) or not all(type(number) is int and number >= 0 for number in ids.values()):
        raise FolderError(f"{path} has tokens whose ids are not whole numbers; download it again")
    return ids


def _lacks_end(named: Mapping[str, Any], have: Collection[str], config: Mapping[str, Any]) -> bool:
    """Whether the class's default end of text has no id and the model no row for one: then it was trained without."""
    return END_OF_TEXT in map(str, named.values()) and END_OF_TEXT not in have and len(have) >= config["vocab_size"]


def _refuse_unsure(source: Path, tokens: Sequence[Any], have: Collection[str]) -> None:
    """Refuses tokens without ids if the default end of text is left out: transformers would number them after it."""
    unsure = sorted({str(token) for token in tokens if token is not None} - {*have})
    if unsure:
        raise FolderError(f"{source}: the token {unsure[0]!r} has no id, and vocab.json no {END_OF_TEXT}; {REMEDY}")


def _flagged(path: Path, name: str, value: Any) -> AddedToken:
    flags = {flag: value[flag] for flag in FLAGS if flag in value} if isinstance(value, Mapping) else {"": None}
    if not all(isinstance(flag, bool) for flag in flags.values()) or not isinstance(value.get("content"), str):
        _refuse(path, name, value, "a token with its content and flags; download it again")
    return AddedToken(value["content"], **flags)


def _whole(token: Token, *, normalized: bool) -> AddedToken:
    return AddedToken(token, special=True, normalized=normalized) if isinstance(token, str) else token


def _refuse(path: Path, name: str, value: Any, expected: str) -> NoReturn:
    shown = repr(value)
    raise FolderError(f"{path}: {name} is {shown if len(shown) <= 60 else shown[:57] + '...'}; it must be {expected}")
