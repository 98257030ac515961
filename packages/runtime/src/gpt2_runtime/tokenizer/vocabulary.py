"""The tokenizer files of a folder -> a checked, frozen Vocabulary: bytes, merge ranks, ids and added tokens.

Read from tokenizer.json alone, or from vocab.json and merges.txt. What is not a byte-level BPE as GPT-2's is refused
by name: a tokenizer that is almost right gives text that is almost right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from unicodedata import unidata_version

from gpt2_runtime.errors import TokenizerError, shown
from gpt2_runtime.folder.json_object import MOST_TEXT_BYTES, JsonObject, decoded, read_text
from gpt2_runtime.folder.regular_file import read_regular
from gpt2_runtime.tokenizer.merges import BYTES, Merges, as_trained, refuse_unreachable
from gpt2_runtime.tokenizer.normalizer import FORMS, UNICODE, Form, is_exact, normalize
from gpt2_runtime.tokenizer.post_processor import REMEDY, prefix_and_suffix


@dataclass(frozen=True, kw_only=True)
class AddedToken:
    """A token that is found in text as a whole, before any splitting, such as <|endoftext|>.

    Attributes:
        content: its text.
        id: its token id.
        special: whether text that may hold no control tokens spells it out instead.
        normalized: whether it is looked for after the others, in text that is normalized, in its own normal form.
        lstrip: whether it swallows the white space before it.
        rstrip: whether it swallows the white space after it.
    """

    content: str
    id: int
    special: bool = True
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A byte-level BPE.

    Attributes:
        ranks: the bytes of every token that merging can reach -> its rank: 256 single bytes, then the merges in order.
        ids: rank -> token id. GPT-2's own are equal; a vocabulary may permute them.
        token_bytes: token id -> its bytes, for every token there is.
        added: the tokens found as a whole.
        add_prefix_space: whether text that starts without a space is given one.
        normalizer: the normal forms that text is brought into, one after another.
        prefix_ids, suffix_ids: what stands before and after each text.
    """

    ranks: Mapping[bytes, int]
    ids: Sequence[int]
    token_bytes: Mapping[int, bytes]
    added: tuple[AddedToken, ...]
    add_prefix_space: bool
    normalizer: tuple[Form, ...] = ()
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()

    @classmethod
    def from_tokenizer_json(cls, path: Path, trained_sha256: str | None = None) -> Vocabulary:
        """Reads a tokenizer.json, as the tokenizers library writes it.

        Args:
            path: of the file.
            trained_sha256: of a file whose merges were proven to be as trained. If it is this one, they are not again.
        """
        data = read_regular(path, MOST_TEXT_BYTES)
        tokenizer = JsonObject.parsed(decoded(data, path), path)
        model = tokenizer.object("model")
        if "merges" not in model:  # an old file of another kind does not say which
            raise TokenizerError(f"{path} is {shown(model.get('type'))}, not a BPE, and cannot be read; {REMEDY}")
        _refuse_other_models(model)
        add_prefix_space = _add_prefix_space(tokenizer)
        normalizer = _normalizer(tokenizer)
        prefix_ids, suffix_ids = prefix_and_suffix(tokenizer)
        _refuse_unless_types(tokenizer, "decoder", [None, "ByteLevel"])
        added = tuple(_added_token(token, tokenizer) for token in tokenizer.items("added_tokens"))
        merges = Merges.read(model.items("merges"), model.where)
        proven = trained_sha256 is not None and hashlib.sha256(data).hexdigest() == trained_sha256
        vocab = _vocab(model.object("vocab"))
        vocabulary = _vocabulary(vocab, merges, added, add_prefix_space, str(path), normalizer, proven=proven)
        return replace(vocabulary, prefix_ids=prefix_ids, suffix_ids=suffix_ids)

    @classmethod
    def from_vocab_and_merges(cls, vocab_path: Path, merges_path: Path) -> Vocabulary:
        """Reads vocab.json and merges.txt, as GPT-2 was released; entries that no merge makes are added tokens."""
        vocab = _vocab(JsonObject.read(vocab_path))
        lines = read_text(merges_path).replace("\r\n", "\n").removesuffix("\n").split("\n")
        if lines[0].startswith("#version"):
            del lines[0]
        merges = Merges.read(lines if any(lines) else [], str(merges_path))
        outside = [token for token in vocab if token not in merges.ranks]
        added = tuple(AddedToken(content=token, id=vocab[token]) for token in outside)
        return _vocabulary(vocab, merges, added, add_prefix_space=False, where=str(merges_path))


def _vocabulary(
    vocab: Mapping[str, int],
    merges: Merges,
    added: tuple[AddedToken, ...],
    add_prefix_space: bool,
    where: str,
    normalizer: tuple[Form, ...] = (),
    *,
    proven: bool = False,
) -> Vocabulary:
    missing = [character for character in BYTES if character not in vocab]
    if missing:
        told = f"the vocabulary lacks {len(missing)} of the 256 bytes, {shown(missing[0])} first"
        raise TokenizerError(f"{where}: {told}; only a byte-level BPE as GPT-2's can be read")
    for token in added:
        if vocab.get(token.content, token.id) != token.id:
            told = f"token {shown(token.content)} has two ids, {token.id} and {vocab[token.content]}"
            raise TokenizerError(f"{where}: {told}; export the folder again")
    beside = {token.content: token.id for token in added if token.content not in vocab}
    if len({*vocab.values(), *beside.values()}) < len(vocab) + len(beside):
        raise TokenizerError(f"{where}: two tokens have the same id; export the folder again")
    shown_as = {token: normalize(normalizer if token.normalized else (), token.content) for token in added}
    _refuse_equal(shown_as, where)
    ranks = merges.ranks
    try:
        ids = list(map(vocab.__getitem__, ranks))
    except KeyError as error:
        told = f"a merge makes {shown(error.args[0])}, which the vocabulary does not have"
        raise TokenizerError(f"{where}: {told}") from None
    # Proven ones are still held to what costs nothing: each makes a token of its own and, below, from two made before.
    if not (proven and len(ranks) == len(BYTES) + len(merges.tokens)) and not as_trained(merges):
        refuse_unreachable(merges, where)
    bytes_of = {character: bytes([byte]) for character, byte in BYTES.items()}
    try:
        for left, right, made in merges:
            bytes_of[made] = bytes_of[left] + bytes_of[right]
    except KeyError:  # the manifest says of the merges what they are not
        refuse_unreachable(merges, where)
        raise
    token_bytes = {id_: _as_bytes(token) for token, id_ in vocab.items() if token not in ranks}
    token_bytes |= {token.id: _as_bytes(text) for token, text in shown_as.items()}
    # Of an added "é" and the byte é with one id, the byte is what the model means.
    token_bytes |= zip(ids, bytes_of.values(), strict=True)
    return Vocabulary(
        ranks={data: rank for rank, data in enumerate(bytes_of.values())},
        ids=ids,
        token_bytes=token_bytes,
        added=added,
        add_prefix_space=add_prefix_space,
        normalizer=normalizer,
    )


def _refuse_equal(shown_as: Mapping[AddedToken, str], where: str) -> None:
    """Of two tokens with one normal form the library finds either, by chance."""
    found: dict[str, str] = {}
    for token, normal in shown_as.items():
        if token.normalized and normal in found:
            told = f"added tokens {shown(found[normal])} and {shown(token.content)} have the same normal form"
            raise TokenizerError(f"{where}: {told}; {REMEDY}")
        if token.normalized:
            found[normal] = token.content


# Bytes as Latin-1 characters, and nothing that Latin-1 can encode for the characters that stand for no byte.
_LATIN_1 = {byte: 0xFFFF for byte in range(256)} | {ord(character): byte for character, byte in BYTES.items()}


def _as_bytes(token: str) -> bytes:
    """What the library decodes a token to, whether text reaches it by merging or as a whole."""
    try:
        return token.translate(_LATIN_1).encode("latin-1")
    except UnicodeEncodeError:  # not made by merging: it stands for its own text
        return token.encode()


def _vocab(vocab: JsonObject) -> Mapping[str, int]:
    ids = cast(Mapping[str, int], vocab.fields)
    if set(map(type, ids.values())) - {int} or min(ids.values(), default=0) < 0:
        vocab.refuse(next(token for token, id_ in ids.items() if type(id_) is not int or id_ < 0), "an id")
    return ids


def _added_token(value: object, tokenizer: JsonObject) -> AddedToken:
    if not isinstance(value, dict):
        tokenizer.refuse("added_tokens", "a list of objects")
    token = JsonObject(where=f"{tokenizer.where}: added_tokens", fields=value)
    if not token.text("content"):
        token.refuse("content", "text of at least one character")
    if token.flag("single_word", default=False):
        raise TokenizerError(
            f"{token.where}: {shown(token.text('content'))} is single_word, which cannot be read; {REMEDY}"
        )
    special = token.flag("special", default=False)
    return AddedToken(
        content=token.text("content"),
        id=token.integer("id"),
        special=special,
        normalized=token.flag("normalized", default=not special),
        lstrip=token.flag("lstrip", default=False),
        rstrip=token.flag("rstrip", default=False),
    )


def _refuse_other_models(model: JsonObject) -> None:
    harmless: Mapping[str, tuple[object, ...]] = {
        "type": (None, "BPE"),  # GPT-2's own file, of an early version, has none
        "dropout": (None, 0),
        "continuing_subword_prefix": (None, ""),
        "end_of_word_suffix": (None, ""),
        "byte_fallback": (None, False),
        "ignore_merges": (None, False),
    }
    for name, values in harmless.items():
        if model.get(name) not in values:
            _refuse(model, name)


def _add_prefix_space(tokenizer: JsonObject) -> bool:
    _refuse_unless_types(tokenizer, "pre_tokenizer", ["ByteLevel"])
    byte_level = tokenizer.object("pre_tokenizer")
    if not byte_level.flag("use_regex", default=True):
        _refuse(byte_level, "use_regex")
    return byte_level.flag("add_prefix_space", default=True)


def _normalizer(tokenizer: JsonObject) -> tuple[Form, ...]:
    """The normal forms of a normalizer, or of a sequence of them."""
    match tokenizer.get("normalizer"):
        case None:
            return ()
        case {"type": "Sequence", "normalizers": list(parts)}:
            pass
        case part:
            parts = [part]
    kinds = [part.get("type") if isinstance(part, dict) else None for part in parts]
    for part, kind in zip(parts, kinds, strict=True):
        if kind not in FORMS:
            told = f"normalizer is {shown(part if kind is None else kind)}, must be among {', '.join(FORMS)} to be read"
            raise TokenizerError(f"{tokenizer.where}: {told}; {REMEDY}")
    if kinds and not is_exact():
        told = f"normalizer is {kinds[0]}, and Python's Unicode {unidata_version} was not compared with its tables"
        raise TokenizerError(f"{tokenizer.where}: {told}; run a Python with Unicode {', '.join(UNICODE)}")
    return cast(tuple[Form, ...], tuple(kinds))


def _refuse_unless_types(tokenizer: JsonObject, name: str, types: Sequence[str | None]) -> None:
    part = tokenizer.get(name)
    if (None if part is None else tokenizer.object(name).get("type")) not in types:
        _refuse(tokenizer, name)


def _refuse(document: JsonObject, name: str) -> None:
    value = document.get(name)
    kind = value.get("type") if isinstance(value, dict) else value
    told = f"{name} is {shown(kind)}, which GPT-2's tokenizer does not have"
    raise TokenizerError(f"{document.where}: {told}; {REMEDY}")
