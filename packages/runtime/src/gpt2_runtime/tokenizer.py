"""Text <-> token ids, equal to transformers', by a tiktoken encoding built offline from the folder's own files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt2_runtime.errors import PromptError, TokenIdError, TokenizerError, shown
from gpt2_runtime.vocabulary import AddedToken, Vocabulary

if TYPE_CHECKING:
    from tiktoken import Encoding

# GPT-2's split, as tiktoken writes it: possessive where it can be, so that long runs cost no backtracking.
SPLIT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

# Unicode's White_Space, which is what the tokenizers library strips; str.isspace has four more.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))

# Where it cannot be, tiktoken panics: a few hundred thousand spaces before a word exhaust its stack. Cutting the text
# before the last space of such a run changes nothing, since that is where GPT-2's split cuts it too.
LONG_SPACE = re.compile(f"(?<![{WHITE_SPACE}])[{WHITE_SPACE}]{{10000,}}(?=[^{WHITE_SPACE}])")


class Tokenizer:
    """The tokenizer of one folder.

    Text may spell out an added token such as <|endoftext|>; it becomes that token, as it does in transformers. With
    `parse_special=False`, for text of strangers, special tokens in it are spelled like any other text.

    >>> tokenizer = Tokenizer.open(folder)
    >>> ids = tokenizer.encode("To be, or not")
    >>> tokenizer.decode(ids)
    'To be, or not'
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        # The library looks for all verbatim tokens first, then, in what is left, for the normalized ones.
        verbatim = [token for token in vocabulary.added if not token.normalized]
        normalized = [token for token in vocabulary.added if token.normalized]
        self._matchers = [_Matcher(tokens) for tokens in (verbatim, normalized) if tokens]

    @classmethod
    def open(cls, folder: str | Path) -> Tokenizer:
        """Reads the folder's tokenizer.json or, where there is none, its vocab.json and merges.txt.

        Raises:
            TokenizerError: the files are absent, or not a byte-level BPE as GPT-2's.
        """
        if not isinstance(folder, str | PathLike):
            raise TokenizerError(f"folder is {shown(folder)}, must be the path of one")
        folder = Path(folder)
        vocab, merges = folder / "vocab.json", folder / "merges.txt"
        try:
            if (folder / "tokenizer.json").is_file():
                return cls(Vocabulary.from_tokenizer_json(folder / "tokenizer.json"))
            if vocab.is_file() and merges.is_file():
                return cls(Vocabulary.from_vocab_and_merges(vocab, merges))
        except OSError as error:  # a folder that may not be entered, a name that is too long
            raise TokenizerError(f"{folder} cannot be read: {error.strerror or error}") from error
        raise TokenizerError(f"{folder} has no tokenizer files (tokenizer.json, or vocab.json and merges.txt)")

    @property
    def vocabulary(self) -> Vocabulary:
        """What the files say."""
        return self._vocabulary

    def encode(self, text: str, *, parse_special: bool = True) -> list[int]:
        """The token ids of `text`.

        Raises:
            PromptError: it is no string, or holds half a surrogate pair, which is no character.
        """
        if not isinstance(text, str):
            raise PromptError(f"text is {shown(text)}, must be a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            told = f"text has U+{ord(text[error.start]):04X} at character {error.start}"
            raise PromptError(f"{told}, which is half a surrogate pair; pass valid Unicode") from error
        pieces: list[str | int] = [text]
        for matcher in self._matchers:
            pieces = list(_split_all(pieces, matcher, parse_special))
        return [id_ for piece in pieces for id_ in self._ids(piece)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are no character are U+FFFD.

        Raises:
            TokenIdError: one is no integer.
        """
        try:
            listed = list(ids)
        except TypeError as error:
            raise TokenIdError(f"ids are {shown(ids)}, must be integers: [5, 6]") from error
        for id_ in listed:
            if not isinstance(id_, int | np.integer) or isinstance(id_, bool):
                raise TokenIdError(f"token id is {shown(id_)}, must be an integer")
        return b"".join(map(self.token_bytes, listed)).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; none for an id that only pads the model's vocabulary, as in transformers."""
        return self._vocabulary.token_bytes.get(token_id, b"")

    @cached_property
    def _encoding(self) -> Encoding:
        from tiktoken import Encoding  # only encoding needs it: ids and their text do without

        ranks = dict(self._vocabulary.ranks)
        return Encoding("gpt2_runtime", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={})

    def _ids(self, piece: str | int) -> Sequence[int]:
        if isinstance(piece, int):
            return [piece]
        if piece and self._vocabulary.add_prefix_space and not piece.startswith(" "):
            piece = " " + piece
        ids = self._vocabulary.ids
        cuts = [0, *(match.end() - 1 for match in LONG_SPACE.finditer(piece)), len(piece)]
        parts = (piece[start:end] for start, end in pairwise(cuts))
        return [ids[rank] for part in parts for rank in self._encoding.encode_ordinary(part)]


class _Matcher:
    """Finds added tokens in text: the leftmost, and of those that start together the longest."""

    def __init__(self, tokens: Sequence[AddedToken]) -> None:
        longest_first = sorted(tokens, key=lambda token: len(token.content), reverse=True)
        self._tokens = {token.content: token for token in tokens}
        self._pattern = re.compile("|".join(re.escape(token.content) for token in longest_first))

    def split(self, text: str, parse_special: bool) -> Iterator[str | int]:
        done = 0
        for match in self._pattern.finditer(text):
            token = self._tokens[match.group()]
            if token.special and not parse_special:
                continue
            start, end = match.span()
            if token.lstrip:
                start = len(text[:start].rstrip(WHITE_SPACE))
            if token.rstrip:
                end = len(text) - len(text[end:].lstrip(WHITE_SPACE))
            if done < start:
                yield text[done:start]
            yield token.id
            done = end
        if done < len(text):
            yield text[done:]


def _split_all(pieces: Iterable[str | int], matcher: _Matcher, parse_special: bool) -> Iterator[str | int]:
    for piece in pieces:
        if isinstance(piece, int):
            yield piece
        else:
            yield from matcher.split(piece, parse_special)
