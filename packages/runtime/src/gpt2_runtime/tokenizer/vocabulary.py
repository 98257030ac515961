"""The tokenizer files of a folder -> a checked, frozen Vocabulary: bytes, merge ranks, ids and added tokens.

Reads tokenizer.json alone, or vocab.json and merges.txt. Anything but a byte-level BPE like GPT-2's is refused by name:
a tokenizer that is almost right gives text that is almost right.
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
    """A token matched in the text as a whole, before any splitting, such as <|endoftext|>.

    Attributes:
        content: its text.
        id: its token id.
        special: whether `parse_special=False` encodes it like any other text.
        normalized: whether it is matched after the others, in normalized text, in its own normal form.
        lstrip: whether it strips the white space before it.
        rstrip: whether it strips the white space after it.
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
        ids: rank -> token id. For GPT-2 the two are equal; a vocabulary may permute them.
        token_bytes: token id -> its bytes, for every token.
        added: the tokens matched as a whole.
        add_prefix_space: whether to add a space to text that starts without one.
        normalizer: the normal forms to apply to text, in order.
        prefix_ids, suffix_ids: the ids to add before and after each text.
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
        """Reads a tokenizer.json as written by the tokenizers library.

        Args:
            path: the file.
            trained_sha256: the hash of a file whose merges were checked before; if it is this file, they are not again.
        """
        data = read_regular(path, MOST_TEXT_BYTES)
        tokenizer = JsonObject.parsed(decoded(data, path), path)
        model = tokenizer.object("model")
        if "merges" not in model:  # an old file of another kind does not name its type
            raise TokenizerError(f"{path} is {shown(model.get('type'))}, only BPE is supported; {REMEDY}")
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
        """Reads vocab.json and merges.txt, GPT-2's original files; entries that no merge makes are added tokens."""
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
        problem = f"the vocabulary lacks {len(missing)} of the 256 bytes, starting with {shown(missing[0])}"
        raise TokenizerError(f"{where}: {problem}; only a byte-level BPE like GPT-2's is supported")
    for token in added:
        if vocab.get(token.content, token.id) != token.id:
            problem = f"token {shown(token.content)} has two ids, {token.id} and {vocab[token.content]}"
            raise TokenizerError(f"{where}: {problem}; export the folder again")
    extra = {token.content: token.id for token in added if token.content not in vocab}
    if len({*vocab.values(), *extra.values()}) < len(vocab) + len(extra):
        raise TokenizerError(f"{where}: two tokens have the same id; export the folder again")
    normal_forms = {token: normalize(normalizer if token.normalized else (), token.content) for token in added}
    _refuse_equal(normal_forms, where)
    ranks = merges.ranks
    try:
        ids = list(map(vocab.__getitem__, ranks))
    except KeyError as error:
        problem = f"a merge makes {shown(error.args[0])}, which is not in the vocabulary"
        raise TokenizerError(f"{where}: {problem}") from None
    # Even checked merges must pass the free checks: each makes a new token and, below, from earlier ones.
    if not (proven and len(ranks) == len(BYTES) + len(merges.tokens)) and not as_trained(merges):
        refuse_unreachable(merges, where)
    bytes_of = {character: bytes([byte]) for character, byte in BYTES.items()}
    try:
        for left, right, made in merges:
            bytes_of[made] = bytes_of[left] + bytes_of[right]
    except KeyError:  # the manifest is wrong about the merges
        refuse_unreachable(merges, where)
        raise
    token_bytes = {id_: _as_bytes(token) for token, id_ in vocab.items() if token not in ranks}
    token_bytes |= {token.id: _as_bytes(text) for token, text in normal_forms.items()}
    # If an added "é" and the byte é share an id, the model means the byte.
    token_bytes |= zip(ids, bytes_of.values(), strict=True)
    return Vocabulary(
        ranks={data: rank for rank, data in enumerate(bytes_of.values())},
        ids=ids,
        token_bytes=token_bytes,
        added=added,
        add_prefix_space=add_prefix_space,
        normalizer=normalizer,
    )


def _refuse_equal(normal_forms: Mapping[AddedToken, str], where: str) -> None:
    """Refuses two tokens with the same normal form: the library picks either one, at random."""
    seen: dict[str, str] = {}
    for token, normal in normal_forms.items():
        if token.normalized and normal in seen:
            problem = f"added tokens {shown(seen[normal])} and {shown(token.content)} have the same normal form"
            raise TokenizerError(f"{where}: {problem}; {REMEDY}")
        if token.normalized:
            seen[normal] = token.content


# Characters that stand for a byte -> that byte in Latin-1; the others -> a character that Latin-1 cannot encode.
_LATIN_1 = {byte: 0xFFFF for byte in range(256)} | {ord(character): byte for character, byte in BYTES.items()}


def _as_bytes(token: str) -> bytes:
    """The bytes that the library decodes a token to, whether it is made by merging or matched as a whole."""
    try:
        return token.translate(_LATIN_1).encode("latin-1")
    except UnicodeEncodeError:  # not made by merging: its own text
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
            f"{token.where}: {shown(token.text('content'))} is single_word, which is not supported; {REMEDY}"
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
        "type": (None, "BPE"),  # GPT-2's own file predates this field
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
    """The normal forms of a normalizer or a sequence of normalizers."""
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
            problem = f"normalizer is {shown(part if kind is None else kind)}, must be among {', '.join(FORMS)}"
            raise TokenizerError(f"{tokenizer.where}: {problem}; {REMEDY}")
    if kinds and not is_exact():
        problem = f"normalizer is {kinds[0]}, which is untested with the Unicode {unidata_version} of this Python"
        raise TokenizerError(f"{tokenizer.where}: {problem}; run a Python with Unicode {', '.join(UNICODE)}")
    return cast(tuple[Form, ...], tuple(kinds))


def _refuse_unless_types(tokenizer: JsonObject, name: str, types: Sequence[str | None]) -> None:
    part = tokenizer.get(name)
    if (None if part is None else tokenizer.object(name).get("type")) not in types:
        _refuse(tokenizer, name)


def _refuse(fields: JsonObject, name: str) -> None:
    value = fields.get(name)
    kind = value.get("type") if isinstance(value, dict) else value
    raise TokenizerError(f"{fields.where}: {name} is {shown(kind)}, unlike GPT-2's tokenizer; {REMEDY}")
