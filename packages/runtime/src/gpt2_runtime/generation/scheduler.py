"""Many requests over the rows of one cache: one that finishes leaves its row, and a waiting one takes it.

What is left to the caller is where requests come from, and what becomes of their events::

    while not scheduler.idle:
        for decoding, event in scheduler.step():
            ...

B rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from gpt2_runtime.arguments import check_integer, check_type
from gpt2_runtime.engine.cache import MOST_ROWS, Snapshot
from gpt2_runtime.engine.logits import Row
from gpt2_runtime.engine.session import Session
from gpt2_runtime.errors import GPT2RuntimeError, SettingError
from gpt2_runtime.generation.events import Event
from gpt2_runtime.generation.prefix_cache import PrefixCache, check_prefixes
from gpt2_runtime.generation.request_state import Decoding

ROWS = 8

Told = list[tuple[Decoding, Event | GPT2RuntimeError]]


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """Continuations of one prompt that have no row yet; or one that has only to go on from what another has read."""

    decodings: tuple[Decoding, ...]
    snapshot: Snapshot | None = None


class Scheduler:
    """Decodes up to B requests at once, each as if it were alone.

    Args:
        session: of the serving graph; the portable one, whose rows are of one length, takes one row.
        rows: B, 1 to MOST_ROWS. The cache of a row that has read much takes as much memory as that of one prompt alone.
        prefixes: what the session has computed of earlier prompts, to be used and added to. Prompts are then read one
            by one.

    Raises:
        SettingError: `rows` is out of range, or the prefixes are of another session.

    >>> import numpy as np
    >>> from gpt2_runtime import GREEDY
    >>> from gpt2_runtime.generation.request_state import Decoding
    >>> from gpt2_runtime.generation.request import Request
    >>> scheduler = Scheduler(session, rows=2)
    >>> for prompt in ([5, 6], [7], [8, 9, 10]):
    ...     request = Request(prompt_ids=prompt, max_new_tokens=3, sampling=GREEDY, stop_token_ids=frozenset())
    ...     scheduler.submit(Decoding(session, request, np.random.default_rng(0)))
    >>> counts = []
    >>> while not scheduler.idle:
    ...     counts.append(len(scheduler.step()))
    >>> counts  # three tokens of two rows, and the two ends; then the third prompt
    [2, 2, 4, 1, 1, 2]
    """

    def __init__(self, session: Session, *, rows: int = ROWS, prefixes: PrefixCache | None = None) -> None:
        check_type("session", session, Session)
        check_rows(rows, session)
        check_prefixes(prefixes, session)
        self._session = session
        self._prefixes = prefixes
        self._cache = session.empty_cache(rows)
        self._rows: list[Decoding | None] = [None] * rows
        self._followers: dict[int, tuple[Decoding, ...]] = {}  # row -> those that share the prompt it is to read
        self._waiting: deque[_Waiting] = deque()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        return not self._waiting and not any(self._rows)

    @property
    def free(self) -> int:
        """How many rows have nothing to do, and nothing waits for them."""
        waiting = sum(len(entry.decodings) for entry in self._waiting)
        return max(0, self._rows.count(None) - waiting)

    def submit(self, *decodings: Decoding) -> None:
        """Takes a request, or several continuations of one prompt, which is then read once."""
        self._waiting.append(_Waiting(decodings=decodings))

    def cancel(self, decoding: Decoding) -> None:
        """Forgets a request, wherever it is: no event of it comes any more."""
        self._rows = [None if running is decoding else running for running in self._rows]
        if any(decoding in entry.decodings for entry in self._waiting):
            entries = [replace(entry, decodings=_without(entry.decodings, decoding)) for entry in self._waiting]
            self._waiting = deque(entry for entry in entries if entry.decodings)

    def step(self) -> Told:
        """Reads what each row has to read, and chooses a token for each: the events of that, in no certain order.

        A request that cannot go on, because its settings forbid every token, tells the error in place of an event, and
        has ended; the others go on.
        """
        told, fresh = self._admit()
        going_on = [row for row, running in enumerate(self._rows) if running and row not in fresh]
        # Prompts that are read together have other last bits than one alone, and what is kept has to have the latter.
        turns = [[*fresh, *going_on]] if self._known is None else [*([row] for row in fresh), going_on]
        for rows in turns:
            told += self._read(rows, fresh)
        self._rows = [None if running is None or running.ended else running for running in self._rows]
        return told

    @property
    def _known(self) -> PrefixCache | None:
        return self._prefixes if self._session.packed else None

    def _admit(self) -> tuple[Told, list[int]]:
        """Gives the free rows to those that wait; the rows that have a prompt to read."""
        told: Told = []
        fresh: list[int] = []
        while self._waiting and None in self._rows:
            row, entry = self._rows.index(None), self._waiting.popleft()
            leader, *followers = entry.decodings
            if entry.snapshot is not None:
                self._cache = self._cache.restore(row, entry.snapshot)
            elif events := [(each, event) for each in entry.decodings for event in each.begin()]:
                told += events  # they want no token
                continue
            else:
                fresh.append(row)
                self._followers[row] = tuple(followers)
            self._rows[row] = leader
        return told, fresh

    def _read(self, rows: Sequence[int], fresh: Sequence[int]) -> Told:
        """Steps these rows by what each has to read, of which some are fresh."""
        running = {row: decoding for row in rows if (decoding := self._rows[row]) is not None}
        if not running:
            return []
        start = perf_counter()
        reads = [running[row].next_read() if row in running else [] for row in range(len(self._rows))]
        self._cache = self._cache.crop([each.read if each else 0 for each in self._rows])
        known = self._known
        if known is not None:
            for row in running.keys() & set(fresh):
                self._cache, reused = known.restore(self._cache, reads[row], len(reads[row]), row)
                reads[row], running[row].reused = reads[row][reused:], reused
        logits, self._cache = self._session.step_top_k(reads, self._cache, self._needed())  # [B] of [1]
        told: Told = []
        for row, decoding in running.items():
            if known is not None and row in fresh:
                known.keep(decoding.prompt_ids, self._cache, row)
            told += _advanced(decoding, logits[row], start)
            if followers := self._followers.pop(row, ()):
                told += self._follow(followers, row, logits[row], start)
        return told

    def _needed(self) -> list[int | None]:
        """For each row so many of the highest logits as it and those that share its prompt need, [B]."""
        counts: list[int | None] = []
        for row, running in enumerate(self._rows):
            needed = [each.needed for each in (running, *self._followers.get(row, ())) if each is not None]
            counts.append(None if None in needed else max(filter(None, needed), default=1))
        return counts

    def _follow(self, followers: Sequence[Decoding], row: int, logits: Sequence[Row], start: float) -> Told:
        """Takes the first token of each from the logits [1] of the prompt that `row` has read for all of them."""
        told = [outcome for each in followers for outcome in _advanced(each, logits, start)]
        going_on = [each for each in followers if not each.ended]
        if going_on:
            snapshot = self._cache.snapshot(row, going_on[0].read)
            self._waiting.extendleft(_Waiting(decodings=(each,), snapshot=snapshot) for each in reversed(going_on))
        return told


def check_rows(rows: int, session: Session) -> None:
    """SettingError for a number of rows that a scheduler of this session cannot have."""
    check_integer("rows", rows, 1, MOST_ROWS)
    if rows > 1 and session.graph == "portable":
        told = f"rows is {rows}, the portable graph decodes requests of different lengths one by one"
        raise SettingError(f"{told}; pass 1, or open the serving graph", parameter="rows", value=rows)


def _advanced(decoding: Decoding, logits: Sequence[Row], start: float) -> Told:
    """What the logits [1] after what it has read make of a request."""
    try:
        choices = decoding.choose(logits)
    except GPT2RuntimeError as error:
        decoding.failed = True
        return [(decoding, error)]
    return [(decoding, event) for event in decoding.take(choices, seconds=perf_counter() - start)]


def _without(decodings: tuple[Decoding, ...], gone: Decoding) -> tuple[Decoding, ...]:
    return tuple(each for each in decodings if each is not gone)
