"""The tokenizer files of a folder -> a checked, frozen Vocabulary: bytes, merge ranks, ids and added tokens.

Read from tokenizer.json alone, or from vocab.json and merges.txt. What is not a byte-level BPE as GPT-2's is refused
by name: a tokenizer that is almost right gives text that is almost right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2_runtime.document import Document, read_text
from gpt2_runtime.errors import TokenizerError

Merge = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class AddedToken:
    """A token that is found in text as a whole, before any splitting, such as <|endoftext|>.

    Attributes:
        content: its text.
        id: its token id.
        special: whether text that may hold no control tokens spells it out instead.
        normalized: whether it is looked for after the others.
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
    """

    ranks: Mapping[bytes, int]
    ids: Sequence[int]
    token_bytes: Mapping[int, bytes]
    added: tuple[AddedToken, ...]
    add_prefix_space: bool

    @classmethod
    def from_tokenizer_json(cls, path: Path) -> Vocabulary:
        """Reads a tokenizer.json, as the tokenizers library writes it."""
        tokenizer = Document.read(path)
        model = tokenizer.document("model")
        _refuse_other_models(model)
        add_prefix_space = _add_prefix_space(tokenizer)
        _refuse_other_pipelines(tokenizer)
        added = tuple(_added_token(token, tokenizer) for token in tokenizer.items("added_tokens"))
        merges = [_merge(merge, model.where) for merge in model.items("merges")]
        return _vocabulary(_vocab(model.document("vocab")), merges, added, add_prefix_space, str(path))

    @classmethod
    def from_vocab_and_merges(cls, vocab_path: Path, merges_path: Path) -> Vocabulary:
        """Reads vocab.json and merges.txt, as GPT-2 was released; entries that no merge makes are added tokens."""
        vocab = _vocab(Document.read(vocab_path))
        lines = read_text(merges_path).replace("\r\n", "\n").removesuffix("\n").split("\n")
        if lines[0].startswith("#version"):
            del lines[0]
        merges = [_merge(line, str(merges_path)) for line in lines if line or len(lines) > 1]
        merged = {left + right for left, right in merges}
        outside = [token for token in vocab if token not in BYTES and token not in merged]
        added = tuple(AddedToken(content=token, id=vocab[token]) for token in outside)
        return _vocabulary(vocab, merges, added, add_prefix_space=False, where=str(merges_path))


def _byte_characters() -> dict[str, int]:
    """GPT-2's printable character -> the byte it stands for: itself where it is printable, else one from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTES = _byte_characters()


def _vocabulary(
    vocab: Mapping[str, int],
    merges: Sequence[Merge],
    added: tuple[AddedToken, ...],
    add_prefix_space: bool,
    where: str,
) -> Vocabulary:
    missing = [character for character in BYTES if character not in vocab]
    if missing:
        told = f"the vocabulary lacks {len(missing)} of the 256 bytes, {missing[0]!r} first"
        raise TokenizerError(f"{where}: {told}; only a byte-level BPE as GPT-2's can be read")
    for token in added:
        if vocab.get(token.content, token.id) != token.id:
            told = f"token {token.content!r} has two ids, {token.id} and {vocab[token.content]}"
            raise TokenizerError(f"{where}: {told}; export the folder again")
    everything = {**vocab, **{token.content: token.id for token in added}}
    if len(set(everything.values())) != len(everything):
        raise TokenizerError(f"{where}: two tokens have the same id; export the folder again")
    ranks = {token: rank for rank, token in enumerate((*BYTES, *dict.fromkeys(a + b for a, b in merges)))}
    unknown = [token for token in ranks if token not in vocab]
    if unknown:
        raise TokenizerError(f"{where}: a merge makes {unknown[0]!r}, which the vocabulary does not have")
    _refuse_unreachable(ranks, merges, where)
    token_bytes = {token.id: token.content.encode() for token in added}
    # Of an added "é" and the byte é with one id, the byte is what the model means.
    token_bytes |= {id_: _as_bytes(token) for token, id_ in vocab.items() if id_ not in token_bytes or token in ranks}
    ids = [vocab[token] for token in ranks]
    return Vocabulary(
        ranks={token_bytes[id_]: rank for rank, id_ in enumerate(ids)},
        ids=ids,
        token_bytes=token_bytes,
        added=added,
        add_prefix_space=add_prefix_space,
    )


# Bytes as Latin-1 characters, and nothing that Latin-1 can encode for the characters that stand for no byte.
_LATIN_1 = {byte: 0xFFFF for byte in range(256)} | {ord(character): byte for character, byte in BYTES.items()}


def _as_bytes(token: str) -> bytes:
    try:
        return token.translate(_LATIN_1).encode("latin-1")
    except UnicodeEncodeError:  # not made by merging: it stands for its own text
        return token.encode()


def _refuse_unreachable(ranks: Mapping[str, int], merges: Sequence[Merge], where: str) -> None:
    """Refuses merges on which tiktoken and the tokenizers library would disagree.

    tiktoken joins two neighbours when they make a token together, the library when the two are listed as a pair. That
    is the same where every token, spelled with the merges before its own, ends as a listed pair of it. Every vocabulary
    that was trained is like that; an edited one may not be.
    """
    pairs: dict[str, set[Merge]] = {}
    newest = ""
    for left, right in merges:
        token = left + right
        if token in pairs and token != newest:
            _refuse_merge(left, right, "makes a token that an earlier merge makes", where)
        if not (ranks.get(left, len(ranks)) < ranks[token] and ranks.get(right, len(ranks)) < ranks[token]):
            _refuse_merge(left, right, "joins what no earlier merge makes", where)
        newest = token
        pairs.setdefault(token, set()).add((left, right))
    for token, listed in pairs.items():
        parts = _spelled(token, ranks, below=ranks[token])
        if tuple(parts) not in listed:
            told = f"no text reaches token {token!r}, which earlier merges spell {' '.join(parts)}"
            raise TokenizerError(f"{where}: {told}; only merges as training writes them can be read")


def _refuse_merge(left: str, right: str, why: str, where: str) -> None:
    told = f"merge {left!r} {right!r} {why}"
    raise TokenizerError(f"{where}: {told}; only merges as training writes them can be read")


def _spelled(token: str, ranks: Mapping[str, int], *, below: int) -> list[str]:
    """`token` after all merges of a rank below `below`, by the rule: the lowest rank first, then the leftmost."""
    parts = list(token)
    costs = [ranks.get(token[i : i + 2], below) for i in range(len(token) - 1)]  # of joining part i and i + 1
    while costs and (lowest := min(costs)) < below:
        at = costs.index(lowest)
        parts[at] += parts.pop(at + 1)
        del costs[at]
        if at > 0:
            costs[at - 1] = ranks.get(parts[at - 1] + parts[at], below)
        if at < len(costs):
            costs[at] = ranks.get(parts[at] + parts[at + 1], below)
    return parts


def _vocab(vocab: Document) -> dict[str, int]:
    ids = {token: id_ for token, id_ in vocab.fields.items() if type(id_) is int and id_ >= 0}
    if len(ids) < len(vocab.fields):
        vocab.refuse(next(token for token in vocab if token not in ids), "an id")
    return ids


def _merge(merge: object, where: str) -> Merge:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    match parts:
        case [str(left), str(right)] if left and right:
            return left, right
    raise TokenizerError(f"{where}: {merge!r} is not a merge, must be two tokens; export the folder again")


def _added_token(value: object, tokenizer: Document) -> AddedToken:
    if not isinstance(value, dict):
        tokenizer.refuse("added_tokens", "a list of objects")
    token = Document(where=f"{tokenizer.where}: added_tokens", fields=value)
    if not token.text("content"):
        token.refuse("content", "text of at least one character")
    if token.flag("single_word", default=False):
        raise TokenizerError(f"{token.where}: {token.text('content')!r} is single_word, which cannot be read")
    special = token.flag("special", default=False)
    return AddedToken(
        content=token.text("content"),
        id=token.integer("id"),
        special=special,
        normalized=token.flag("normalized", default=not special),
        lstrip=token.flag("lstrip", default=False),
        rstrip=token.flag("rstrip", default=False),
    )


def _refuse_other_models(model: Document) -> None:
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


def _add_prefix_space(tokenizer: Document) -> bool:
    _refuse_unless_types(tokenizer, "pre_tokenizer", ["ByteLevel"])
    byte_level = tokenizer.document("pre_tokenizer")
    if not byte_level.flag("use_regex", default=True):
        _refuse(byte_level, "use_regex")
    return byte_level.flag("add_prefix_space", default=True)


def _refuse_other_pipelines(tokenizer: Document) -> None:
    _refuse_unless_types(tokenizer, "normalizer", [None])
    if not _adds_nothing(tokenizer.get("post_processor")):
        _refuse(tokenizer, "post_processor")
    _refuse_unless_types(tokenizer, "decoder", [None, "ByteLevel"])


def _adds_nothing(post_processor: object) -> bool:
    """Whether a prompt's ids stay as they are; a template may put a token before or after each prompt."""
    match post_processor:
        case None | {"type": "ByteLevel"}:
            return True
        case {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]}:  # as transformers 5 saves it
            return True
    return False


def _refuse_unless_types(tokenizer: Document, name: str, types: Sequence[str | None]) -> None:
    part = tokenizer.get(name)
    if (None if part is None else tokenizer.document(name).get("type")) not in types:
        _refuse(tokenizer, name)


def _refuse(document: Document, name: str) -> None:
    value = document.get(name)
    shown = value.get("type") if isinstance(value, dict) else value
    told = f"{name} is {shown!r}, which GPT-2's tokenizer does not have"
    raise TokenizerError(f"{document.where}: {told}; pass token ids to Session and generate")
