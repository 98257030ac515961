"""The merges of a byte-level BPE: reads and ranks them, and refuses lists that training cannot have produced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat
from operator import add
from typing import cast

import numpy as np
import numpy.typing as npt

from gpt2_runtime.errors import TokenizerError, shown


def _byte_characters() -> dict[str, int]:
    """GPT-2's printable character -> its byte. A printable byte is its own character; the others start at U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTES = _byte_characters()


@dataclass(frozen=True, kw_only=True)
class Merges:
    """The merges in order, as columns: there are fifty thousand, and several checks read them all.

    >>> merges = Merges.read(["t h", ["th", "e"]], "merges.txt")
    >>> merges.tokens, merges.ranks["the"]
    (['th', 'the'], 257)
    """

    lefts: list[str]
    rights: list[str]

    @classmethod
    def read(cls, merges: Sequence[object], where: str) -> Merges:
        """Reads merges in either file format, "t h" or ["t", "h"]; a TokenizerError names the first invalid one."""
        kinds = set(map(type, merges))
        flat: list[str] = []
        if kinds == {str} and set(map(str.count, cast(Sequence[str], merges), repeat(" "))) == {1}:
            flat = " ".join(cast(Sequence[str], merges)).split(" ")
        elif kinds == {list} and set(map(len, cast(Sequence[list[str]], merges))) == {2}:
            flat = list(chain.from_iterable(cast(Sequence[list[str]], merges)))
        if not flat or set(map(type, flat)) != {str} or not all(flat):
            flat = [part for merge in merges for part in _merge(merge, where)]
        return cls(lefts=flat[0::2], rights=flat[1::2])

    @cached_property
    def tokens(self) -> list[str]:
        """The token that each merge makes."""
        return list(map(add, self.lefts, self.rights))

    @cached_property
    def ranks(self) -> dict[str, int]:
        """Token -> rank: the 256 bytes, then the merges in order."""
        return {token: rank for rank, token in enumerate(dict.fromkeys(chain(BYTES, self.tokens)))}

    def __iter__(self) -> Iterator[tuple[str, str, str]]:
        return zip(self.lefts, self.rights, self.tokens, strict=True)


def as_trained(merges: Merges) -> bool:
    """Whether every merge makes a new token from two earlier ones, and encoding that token's text yields the token.

    Then `refuse_unreachable` has nothing to refuse; this check is many times faster. It undoes both sides of all merges
    at once, latest first, as if encoding the tokens' texts backwards. The two parts that then meet at the border would
    have been merged across it if that makes a token of a lower rank than the merge just undone, or of the same rank if
    that one was undone on the right, since the leftmost of equals goes first. Only listed pairs can meet there, because
    all tokens of lower ranks are reachable from their texts.
    """
    ranks = merges.ranks
    if len(ranks) < 256 + len(merges.tokens):
        return False
    lefts, rights = _ranks_of(merges.lefts, ranks), _ranks_of(merges.rights, ranks)  # [rank]
    if np.any(np.maximum(lefts, rights)[256:] >= np.arange(256, len(ranks))):
        return False
    keys = lefts * len(ranks) + rights
    keys[:256] = -1
    order = np.argsort(keys)
    keys = keys[order]
    left, right = lefts[256:], rights[256:]
    while (more := np.maximum(left, right) >= 256).any():
        left, right = left[more], right[more]
        undo_left = left > right
        limit = np.where(undo_left, left, right + 1)
        left, right = np.where(undo_left, rights[left], left), np.where(undo_left, right, lefts[right])
        wanted = left * len(ranks) + right
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        if np.any((keys[at] == wanted) & (order[at] < limit)):
            return False
    return True


def _ranks_of(parts: list[str], ranks: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Rank -> the rank of this part of its token; a byte is its own part, and len(ranks) stands for an unknown part."""
    known = map(ranks.get, parts, repeat(len(ranks)))
    return np.fromiter(chain(range(256), known), np.int64, count=256 + len(parts))


def refuse_unreachable(merges: Merges, where: str) -> None:
    """Refuses merges on which tiktoken and the tokenizers library would disagree.

    tiktoken joins two neighbours if together they make a token; the library only if the pair is listed. Both give the
    same ids if every token, encoded with the merges before its own, ends up as one of its listed pairs. That holds for
    every trained vocabulary, but not for every edited one.
    """
    ranks = merges.ranks
    pairs: dict[str, set[tuple[str, str]]] = {}
    newest = ""
    for left, right, token in merges:
        if token in pairs and token != newest:
            _refuse_merge(left, right, "makes a token that an earlier merge already makes", where)
        if not (ranks.get(left, len(ranks)) < ranks[token] and ranks.get(right, len(ranks)) < ranks[token]):
            _refuse_merge(left, right, "joins tokens that no earlier merge makes", where)
        newest = token
        pairs.setdefault(token, set()).add((left, right))
    for token, listed in pairs.items():
        parts = _spelled(token, ranks, below=ranks[token])
        if tuple(parts) not in listed:
            problem = f"token {shown(token)} is unreachable: earlier merges split its text into {' '.join(parts)}"
            raise TokenizerError(f"{where}: {problem}; only merges in the order of training are supported")


def _refuse_merge(left: str, right: str, why: str, where: str) -> None:
    problem = f"merge {shown(left)} {shown(right)} {why}"
    raise TokenizerError(f"{where}: {problem}; only merges in the order of training are supported")


def _spelled(token: str, ranks: Mapping[str, int], *, below: int) -> list[str]:
    """`token` after all merges of ranks below `below`: the lowest rank first, then the leftmost."""
    parts = list(token)
    costs = [ranks.get(token[i : i + 2], below) for i in range(len(token) - 1)]  # of parts i and i + 1 joined
    while costs and (lowest := min(costs)) < below:
        at = costs.index(lowest)
        parts[at] += parts.pop(at + 1)
        del costs[at]
        if at > 0:
            costs[at - 1] = ranks.get(parts[at - 1] + parts[at], below)
        if at < len(costs):
            costs[at] = ranks.get(parts[at] + parts[at + 1], below)
    return parts


def _merge(merge: object, where: str) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    match parts:
        case [str(left), str(right)] if left and right:
            return left, right
    raise TokenizerError(f"{where}: {shown(merge)} is not a merge, must be two tokens; export the folder again")
