"""Text <-> token ids, equal to transformers', with a tiktoken encoding built offline from the folder's own files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt2_runtime.arguments import check_flag, check_type, is_integer
from gpt2_runtime.errors import PromptError, TokenIdError, TokenizerError, shown
from gpt2_runtime.tokenizer.normalizer import normalize
from gpt2_runtime.tokenizer.post_processor import REMEDY
from gpt2_runtime.tokenizer.vocabulary import AddedToken, Vocabulary

if TYPE_CHECKING:
    from tiktoken import Encoding

# GPT-2's split, as tiktoken writes it: possessive where possible, so that long runs need no backtracking.
SPLIT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

# Unicode's White_Space, which the tokenizers library strips; str.isspace accepts four more.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))

# The part that cannot be possessive makes tiktoken panic: a few hundred thousand spaces before a word exhaust its
# stack. Cutting the text before the last space of such a run changes nothing, since GPT-2's split cuts there too.
LONG_SPACE = re.compile(f"(?<![{WHITE_SPACE}])[{WHITE_SPACE}]{{10000,}}(?=[^{WHITE_SPACE}])")
SPACES = re.compile(f"[{WHITE_SPACE}]*")


class Tokenizer:
    """The tokenizer of one folder.

    An added token such as <|endoftext|> in the text becomes that token, as in transformers. With `parse_special=False`,
    for untrusted text, special tokens are encoded like any other text.

    >>> tokenizer = Tokenizer.open(folder)
    >>> ids = tokenizer.encode("To be, or not")
    >>> tokenizer.decode(ids)
    'To be, or not'
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        check_type("vocabulary", vocabulary, Vocabulary)
        self._vocabulary = vocabulary
        # The library matches the verbatim tokens first, normalizes the rest, and matches the other tokens there.
        self._verbatim = _Matcher({token.content: token for token in vocabulary.added if not token.normalized})
        others = {self._normal(token.content): token for token in vocabulary.added if token.normalized}
        self._normalized = _Matcher(others)

    @classmethod
    def open(cls, folder: str | Path, *, trained_sha256: str | None = None) -> Tokenizer:
        """Reads the folder's tokenizer.json or, without that file, its vocab.json and merges.txt.

        Args:
            folder: the folder that has them.
            trained_sha256: the hash of a tokenizer.json whose merges need no check; see `Bundle.trained_sha256`.

        Raises:
            TokenizerError: the files are absent, or not a byte-level BPE like GPT-2's.
            SettingError: `trained_sha256` is not text.
        """
        if trained_sha256 is not None:
            check_type("trained_sha256", trained_sha256, str)
        if not isinstance(folder, str | PathLike):
            raise TokenizerError(f"folder is {shown(folder)}, must be a path")
        folder = Path(folder)
        vocab, merges = folder / "vocab.json", folder / "merges.txt"
        try:
            if (folder / "tokenizer.json").is_file():
                return cls(Vocabulary.from_tokenizer_json(folder / "tokenizer.json", trained_sha256))
            if vocab.is_file() and merges.is_file():
                return cls(Vocabulary.from_vocab_and_merges(vocab, merges))
        except OSError as error:  # a folder without permission, a name that is too long
            raise TokenizerError(f"{folder} cannot be read: {error.strerror or error}") from error
        raise TokenizerError(f"{folder} has no tokenizer files of a supported kind; {REMEDY}")

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary read from the files."""
        return self._vocabulary

    def encode(self, text: str, *, parse_special: bool = True, add_special_tokens: bool = True) -> list[int]:
        """The token ids of `text`.

        Args:
            text: any text; may be empty.
            parse_special: whether a special token written in the text becomes that token.
            add_special_tokens: whether to add the ids that the tokenizer puts around each text; GPT-2's has none.

        Raises:
            PromptError: it is not a string, or contains half a surrogate pair, which is not a character.
            SettingError: a flag is neither True nor False.
        """
        if not isinstance(text, str):
            raise PromptError(f"text is {shown(text)}, must be a string", parameter="text", value=text)
        check_flag("parse_special", parse_special)
        check_flag("add_special_tokens", add_special_tokens)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            problem = f"text has U+{ord(text[error.start]):04X} at character {error.start}"
            problem = f"{problem}, which is half a surrogate pair; pass valid Unicode"
            raise PromptError(problem, parameter="text", value=text) from error
        verbatim = _split_all([text], self._verbatim, parse_special)
        normal = (piece if isinstance(piece, int) else self._normal(piece) for piece in verbatim)
        ids = [id_ for piece in _split_all(normal, self._normalized, parse_special) for id_ in self._ids(piece)]
        if not add_special_tokens:
            return ids
        return [*self._vocabulary.prefix_ids, *ids, *self._vocabulary.suffix_ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that form no character become U+FFFD.

        Raises:
            TokenIdError: an id is not an integer.
        """
        try:
            listed = list(ids)
        except TypeError as error:
            problem = f"ids are {shown(ids)}, must be integers: [5, 6]"
            raise TokenIdError(problem, parameter="ids", value=ids) from error
        for id_ in listed:
            if not is_integer(id_) and not isinstance(id_, np.integer):
                raise TokenIdError(f"token id is {shown(id_)}, must be an integer", parameter="ids", value=id_)
        return b"".join(map(self.token_bytes, listed)).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; empty for an id that only pads the model's vocabulary, as in transformers."""
        try:
            return self._vocabulary.token_bytes.get(token_id, b"")
        except TypeError as error:  # not hashable, such as a list
            problem = f"token id is {shown(token_id)}, must be an integer"
            raise TokenIdError(problem, parameter="token_id", value=token_id) from error

    @cached_property
    def _encoding(self) -> Encoding:
        from tiktoken import Encoding  # imported here because only encoding needs it

        ranks = dict(self._vocabulary.ranks)
        return Encoding("gpt2_runtime", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={})

    def _normal(self, text: str) -> str:
        return normalize(self._vocabulary.normalizer, text)

    def _ids(self, piece: str | int) -> Sequence[int]:
        if isinstance(piece, int):
            return [piece]
        if piece and self._vocabulary.add_prefix_space and not piece.startswith(" "):
            piece = " " + piece
        ids = self._vocabulary.ids
        cuts = [0, *(match.end() - 1 for match in LONG_SPACE.finditer(piece)), len(piece)]
        parts = (piece[start:end] for start, end in pairwise(cuts))
        return [ids[rank] for part in parts for rank in self._encoding.encode_ordinary(part)]


def refusal(folder: Path) -> TokenizerError:
    """The error to raise when text is passed to a folder that takes only token ids."""
    try:
        Tokenizer.open(folder)
    except TokenizerError as error:
        return error
    return TokenizerError(f"{folder / 'manifest.json'} lists no tokenizer files; {REMEDY}")


class _Matcher:
    """Finds added tokens in text: the leftmost, and the longest of those that start at the same place.

    Args:
        tokens: the text to search for -> its token.
    """

    def __init__(self, tokens: Mapping[str, AddedToken]) -> None:
        self._tokens = tokens
        self._pattern = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")

    def split(self, text: str, parse_special: bool) -> Iterator[str | int]:
        """Reads each character a fixed number of times, however many tokens strip the space around it."""
        done = swallowed = 0
        for match in self._pattern.finditer(text):
            token = self._tokens[match.group()]
            if token.special and not parse_special:
                continue
            start, end = match.span()
            if token.lstrip:
                start = done + len(text[done:start].rstrip(WHITE_SPACE))
            if token.rstrip:
                # A token within the spaces that an earlier one stripped ends where those spaces end.
                swallowed = end = swallowed if end < swallowed else SPACES.match(text, end).end()  # type: ignore[union-attr]
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
