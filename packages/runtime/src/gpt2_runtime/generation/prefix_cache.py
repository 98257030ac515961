"""Keys and values of earlier prompts, for later ones that start the same. Bounded: the least recently used go first.

On the CPU, what is restored has exactly the bits that computing it again would give. The same tokens are not enough for
that, because the last bits of a token depend on the length of the run that computes it: the kernels take tokens in
blocks of a few rows, and add up in another order in a last block that is not full, or for a token alone. So `reusable`
says how many tokens of a prompt are restored, and `whole_blocks` how many are kept. New tokens are not kept: they were
read one by one, and in a prompt they are read together. (The tests compare bits in every precision of both graphs. No
GPU has been tested.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from threading import Lock
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gpt2_runtime.arguments import check_integer, check_type, invalid
from gpt2_runtime.engine import portable_graph, serving_graph
from gpt2_runtime.engine.cache import KeyValueCache, Snapshot
from gpt2_runtime.engine.session import Session
from gpt2_runtime.errors import SettingError
from gpt2_runtime.folder.sharing import Local

# Rows of a block: of matrix products 1 to 16, of attention in the serving graph twice the head size, a multiple of 16.
BLOCK = 16
# A prompt that continues from here is read in the same runs as without the cache.
CHUNK = math.lcm(serving_graph.PREFILL_CHUNK, portable_graph.PREFILL_CHUNK)


Cache = TypeVar("Cache", bound=KeyValueCache)


def reusable(shared: int, count: int, *, even: bool = False) -> int:
    """How many tokens to restore in a row that will read `count`, when the first `shared` are known.

    Whole blocks only, and never all but the last token, which would then be read alone. If it has a block to itself
    anyway, that must stay so: then whole chunks only. In an even session no token is read alone.

    >>> reusable(40, 41), reusable(40, 48), reusable(48, 48), reusable(48, 49), reusable(300, 513)
    (32, 32, 32, 0, 256)
    >>> reusable(48, 49, even=True), reusable(300, 513, even=True)
    (32, 288)
    """
    size = CHUNK if count % BLOCK == 1 and not even else BLOCK
    return min(shared, max(0, count - 2)) // size * size


def next_stop(start: int, count: int, most: int, *, even: bool = False) -> int:
    """Up to where a text of `count` tokens is read next, after the first `start` of them.

    That is `most` tokens further, or fewer where those would have other bits than in a text that is read at once: the
    rules are those of `reusable`. So it is never fewer than a block, and where the last token is in a block by itself
    not fewer than a chunk.

    >>> [next_stop(start, 300, 100) for start in (0, 96, 192, 288)]
    [96, 192, 288, 300]
    >>> next_stop(0, 49, 16), next_stop(0, 33, 16, even=True), next_stop(16, 33, 16, even=True)
    (49, 16, 33)
    """
    if count - start <= most:
        return count
    size = CHUNK if count % BLOCK == 1 and not even else BLOCK
    stop = max(min(start + most, count - 2) // size * size, start + size)
    return stop if stop <= count - 2 else count


def whole_blocks(count: int) -> int:
    """How many of `count` tokens that were read together are as they would be in any longer prompt.

    >>> whole_blocks(15), whole_blocks(40)
    (0, 32)
    """
    return count // BLOCK * BLOCK


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """The first tokens of a prompt [T], and their keys and values."""

    ids: npt.NDArray[np.integer]
    snapshot: Snapshot

    def shared(self, ids: npt.NDArray[np.integer]) -> int:
        """How many of its first tokens another text has too."""
        most = min(len(ids), len(self.ids))
        other = np.flatnonzero(self.ids[:most] != ids[:most])
        return int(other[0]) if len(other) else most


class PrefixCache(Local):
    """What a session has computed of earlier prompts. Threads may share it.

    Pass it to `generate`, or open a `TextGenerator` with `prefix_bytes`: the results are those without it, on a GPU up
    to rounding. While a session's weights are not packed (`prepack=False`) its numbers are others, and it is left
    aside.

    Args:
        session: the one that it is for.
        max_bytes: of keys and values, at most. A prompt that has more is not kept.

    Raises:
        SettingError: `max_bytes` is not an integer of at least 1.

    >>> from gpt2_runtime import generate
    >>> prefixes = PrefixCache(session, max_bytes=2**20)
    >>> prompt = [5, 6, 7, 8] * 10
    >>> events = [list(generate(session, prompt, max_new_tokens=3, prefixes=prefixes)) for _ in range(2)]
    >>> [finished.reused for *_, finished in events], prefixes.nbytes
    ([0, 32], 16384)
    """

    remedy = "make one of a session of that process, or send a TextGenerator that has one"

    def __init__(self, session: Session, *, max_bytes: int) -> None:
        check_type("session", session, Session)
        check_integer("max_bytes", max_bytes, 1, remedy="leave it out for none")
        self.max_bytes = max_bytes
        self._owner = session.opened.owner
        self._even = session.even
        self._lock = Lock()
        self._prefixes: dict[Prefix, list[bytes]] = {}  # and its starts; least recently used first, as in each start
        self._by_start: dict[bytes, dict[Prefix, None]] = {}  # none starts like a whole other one
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._prefixes)

    @property
    def nbytes(self) -> int:
        """The keys and values kept."""
        return self._nbytes

    def check(self, session: Session) -> None:
        """SettingError where it is of another session."""
        if session.opened.owner is not self._owner:
            raise SettingError("prefixes are of another session; make a PrefixCache of this one")

    def longest(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> tuple[Snapshot, int] | None:
        """What is kept of most whole blocks of a text, and how many of its tokens that has; None where it has no block.

        It counts as used.
        """
        text = _text(ids)
        starts = _starts(text)
        with self._lock:
            start = next((each for each in reversed(starts) if each in self._by_start), None)
            if start is None:
                return None
            found = next(iter(self._by_start[start]))
            self._add(found, self._remove(found))
            return found.snapshot, found.shared(text)

    def restore(self, cache: Cache, ids: Sequence[int], count: int, row: int = 0) -> tuple[Cache, int]:
        """A cache whose row holds what may be reused of a text, and how many tokens those are.

        Args:
            cache: it is used up.
            ids: the text; the row reads what is not restored.
            count: how many tokens it would read without.
            row: which; it is empty.
        """
        found = self.longest(ids)
        length = reusable(found[1], count, even=self._even) if found else 0
        return (cache.restore(row, found[0], length), length) if found and length else (cache, 0)

    def keep(self, ids: Sequence[int], cache: KeyValueCache, row: int = 0) -> None:
        """Keeps what a row holds of a text, as far as it can be reused.

        Args:
            ids: the row's first tokens, which were read together.
            cache: it stays as it is.
            row: which.

        Raises:
            SettingError: the cache is of another session, or the row has fewer tokens.
        """
        if cache.owner is not self._owner:
            raise SettingError("cache is of another session; make a PrefixCache of that one")
        text = _text(ids)
        text = text[: whole_blocks(len(text))].copy()  # its own
        shape, dtype = cache.layout
        if not len(text) or math.prod(shape) * len(text) * dtype.itemsize > self.max_bytes:
            return
        known = self.longest(text)
        if known and known[1] == len(text):
            return
        snapshot = cache.snapshot(row, len(text))  # outside of the lock: it takes time
        starts = _starts(text)
        with self._lock:
            if not starts or starts[-1] in self._by_start:  # another thread has kept it, or more
                return
            for length, start in enumerate(starts, 1):
                first = next(iter(self._by_start.get(start, ())), None)
                if first is not None and len(first.ids) == length * BLOCK:  # a start of this one
                    self._remove(first)
            while self._nbytes + snapshot.nbytes > self.max_bytes:
                self._remove(next(iter(self._prefixes)))
            self._add(Prefix(ids=text, snapshot=snapshot), starts)

    def _add(self, prefix: Prefix, starts: list[bytes]) -> None:
        """As the last used."""
        self._prefixes[prefix] = starts
        for start in starts:
            self._by_start.setdefault(start, {})[prefix] = None
        self._nbytes += prefix.snapshot.nbytes

    def _remove(self, prefix: Prefix) -> list[bytes]:
        """Its starts."""
        starts = self._prefixes.pop(prefix)
        for start in starts:
            del self._by_start[start][prefix]
            if not self._by_start[start]:
                del self._by_start[start]
        self._nbytes -= prefix.snapshot.nbytes
        return starts


def _starts(text: npt.NDArray[np.integer]) -> list[bytes]:
    """A digest of each start of whole blocks, each from the one before: in time that grows as the text does."""
    blocks = text[: len(text) // BLOCK * BLOCK].astype(np.int64).reshape(-1, BLOCK)
    return list(accumulate(map(bytes, blocks), lambda start, block: sha256(start + block).digest(), initial=b""))[1:]


def check_prefixes(value: object, session: Session) -> None:
    """SettingError for what is neither a PrefixCache of the session nor None."""
    if value is not None and not isinstance(value, PrefixCache):
        raise invalid("prefixes", value, "must be a PrefixCache", "leave it out for none")
    if value is not None:
        value.check(session)


def _text(ids: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """Token ids as [T]."""
    try:
        text = np.asarray(ids)
    except (TypeError, ValueError, OverflowError) as error:
        raise SettingError(f"ids are {type(ids).__name__}, must be integers of shape [T]") from error
    if text.ndim != 1 or (text.size and text.dtype.kind not in "iu"):
        raise SettingError(f"ids are {text.dtype} of shape {text.shape}, must be integers of shape [T]")
    return text
