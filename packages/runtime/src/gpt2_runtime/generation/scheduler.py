"""The decode loop: requests over the rows of one cache. One that ends leaves its row, and a waiting one takes it.

What is left to the caller is where requests come from, and what becomes of their events::

    scheduler.submit(state)
    while not scheduler.idle:
        for state, outcome in scheduler.step():
            ...

B rows, G draft tokens.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

from gpt2_runtime.arguments import check_integer, check_type
from gpt2_runtime.engine import serving_graph
from gpt2_runtime.engine.cache import MOST_ROWS, Snapshot
from gpt2_runtime.engine.logits import Row
from gpt2_runtime.engine.session import Session
from gpt2_runtime.errors import GPT2RuntimeError, SettingError
from gpt2_runtime.generation.events import Event
from gpt2_runtime.generation.prefix_cache import BLOCK, PrefixCache, check_prefixes, next_stop
from gpt2_runtime.generation.prompt_lookup import DraftBudget
from gpt2_runtime.generation.request_state import RequestState

ROWS = 8
PREFILL_CHUNK = serving_graph.PREFILL_CHUNK

StepOutputs = list[tuple[RequestState, Event | GPT2RuntimeError]]
"""What a step made of the requests: in place of an event, the error of one that can go no further."""

Group = tuple[RequestState, ...]
"""Continuations of one prompt, which the first of them reads; once it is read, one alone."""


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A group that has no row yet; or one of a group that was, with what another has read for it."""

    group: Group
    snapshot: Snapshot | None = None


class _Read(NamedTuple):
    """What a row reads in a step: tokens of its text, with a draft at their end.

    Attributes:
        prompt: whether they are of its prompt, or of a window that moved on: not its last token alone.
        last: whether nothing is left to read after them, so that tokens are chosen.
    """

    ids: list[int]
    draft: Sequence[int] = ()
    prompt: bool = False
    last: bool = True

    @property
    def keep(self) -> int:
        """After how many of the last tokens logits are needed."""
        return 1 + len(self.draft) if self.last else 0


NOTHING = _Read([], last=False)

Reads = dict[int, _Read]
"""What each row reads that does."""


class Scheduler:
    """Decodes up to B requests at once, each as if it were alone.

    Args:
        session: of the serving graph; the portable one, whose rows are of one length, takes one row.
        rows: B, 1 to MOST_ROWS. The cache of a row that has read much takes as much memory as that of one prompt alone.
        capacity: the tokens that a row has room for; by default the model's n_positions.
        prefill_chunk: while rows decode, a step reads at most this many prompt tokens, at least BLOCK: no row waits
            longer for its next token. (Except in int8 and int4, a prompt of 16 n + 1 tokens is read 256 at a time: the
            bits of its last token depend on it.) Every number gives the same results. None reads each prompt at once,
            for work where only the total time counts.
        prefixes: what the session has computed of earlier prompts, to be used and added to. Prompts are then read one
            by one.

    Raises:
        SettingError: a number is out of range, or the prefixes are of another session.

    >>> import numpy as np
    >>> from gpt2_runtime import GREEDY
    >>> from gpt2_runtime.generation.request_state import RequestState
    >>> from gpt2_runtime.generation.request import Request
    >>> scheduler = Scheduler(session, rows=2)
    >>> for prompt in ([5, 6], [7], [8, 9, 10]):
    ...     request = Request(prompt_ids=prompt, max_new_tokens=3, sampling=GREEDY, stop_token_ids=frozenset())
    ...     scheduler.submit(RequestState(session, request, np.random.default_rng(0)))
    >>> counts = []
    >>> while not scheduler.idle:
    ...     counts.append(len(scheduler.step()))
    >>> counts  # three tokens of two rows, and the two ends; then the third prompt
    [2, 2, 4, 1, 1, 2]
    """

    def __init__(
        self,
        session: Session,
        *,
        rows: int = ROWS,
        capacity: int | None = None,
        prefill_chunk: int | None = PREFILL_CHUNK,
        prefixes: PrefixCache | None = None,
    ) -> None:
        check_type("session", session, Session)
        check_rows(rows, session)
        if prefill_chunk is not None:
            check_integer("prefill_chunk", prefill_chunk, BLOCK, remedy="None reads every prompt at once")
        check_prefixes(prefixes, session)
        self._session = session
        self._prefixes = prefixes
        self._chunk = prefill_chunk or sys.maxsize
        self._cache = session.empty_cache(rows, capacity=capacity)
        self._waiting: deque[_Waiting] = deque()
        self._rows: dict[int, Group] = {}  # those that are taken, in the order in which they were
        self._kept: set[int] = set()  # rows that read a prompt whose start is to be kept
        self._drafting: Sequence[RequestState] = ()  # those that the budget is of
        self._budget = DraftBudget()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        return not self._waiting and not self._rows

    @property
    def free(self) -> int:
        """How many rows have nothing to do, and nothing waits for them."""
        waiting = sum(len(entry.group) for entry in self._waiting)
        return max(0, self._cache.batch_size - sum(map(len, self._rows.values())) - waiting)

    def submit(self, *states: RequestState) -> None:
        """Takes a request, or several continuations of one prompt, which is then read once.

        Raises:
            SettingError: the rows have less room than one needs.
        """
        most = max(state.capacity for state in states)
        if most > self._cache.capacity:
            problem = f"capacity is {self._cache.capacity}, a request needs room for {most} tokens; make it larger"
            raise SettingError(problem, parameter="capacity", value=self._cache.capacity)
        self._waiting.append(_Waiting(group=states))

    def cancel(self, state: RequestState) -> None:
        """Forgets a request, wherever it is: no event of it comes any more."""
        self._rows = {row: left for row, group in self._rows.items() if (left := _without(group, state))}
        if any(state in entry.group for entry in self._waiting):
            entries = [(_without(entry.group, state), entry.snapshot) for entry in self._waiting]
            self._waiting = deque(_Waiting(group=left, snapshot=snapshot) for left, snapshot in entries if left)

    def step(self) -> StepOutputs:
        """Reads what each row has to read, and chooses the next tokens of each: the outcomes, in no certain order.

        A request that cannot go on, because its settings forbid every token, has an error in place of an event, and has
        ended; the others go on.
        """
        start = perf_counter()
        outputs = self._admit()
        for reads in self._plan():
            logits = self._read(reads)
            outputs += self._append(reads, logits, start)
            start = perf_counter()
        return outputs

    @property
    def _known(self) -> PrefixCache | None:
        return self._prefixes if self._session.packed else None

    def _admit(self) -> StepOutputs:
        """Gives the free rows to those that wait, but for those that want no token: their ends."""
        outputs: StepOutputs = []
        while self._waiting and len(self._rows) < self._cache.batch_size:
            entry = self._waiting.popleft()
            if entry.snapshot is None and (ends := [(each, end) for each in entry.group for end in each.begin()]):
                outputs += ends
                continue
            row = min(set(range(self._cache.batch_size)) - self._rows.keys())
            if entry.snapshot is not None:
                self._cache = self._cache.restore(row, entry.snapshot)
            self._rows[row] = entry.group
            self._kept.discard(row)
        return outputs

    def _plan(self) -> Iterator[Reads]:
        """What the rows read, together; or in turns, each planned once the one before is done.

        Prompts that are read together have other last bits than one alone, and what is kept has to have the latter.
        """
        unread = {row: state.next_read() for row, (state, *_) in self._rows.items()}
        decoding = {row: ids for row, ids in unread.items() if len(ids) == 1 and self._rows[row][0].num_cached}
        left = self._chunk if decoding else sys.maxsize
        reads: Reads = {}
        for place, row in enumerate(row for row in unread if row not in decoding):
            alone = self._known is not None
            if alone:
                self._restore(row)
            read = self._piece(row, left)
            if place and (not read.last or len(read.ids) > left):  # the first alone is read in pieces
                break
            left -= len(read.ids)
            reads[row] = read
            if alone:
                yield reads
                reads = {}
        drafts = {} if reads else self._drafts(decoding)
        for row, ids in decoding.items():
            draft = drafts.get(row, ())
            reads[row] = _Read([*ids, *draft], draft)
        if reads:
            yield reads

    def _restore(self, row: int) -> None:
        """Gives a row what is known of its prompt. A window that moved on starts within a text, as no prompt does."""
        first, *_ = group = self._rows[row]
        if self._known is None or first.num_cached or first.slides:
            return
        self._cache, reused = self._known.restore(self._cache, first.ids, len(first.ids), row)
        self._kept.add(row)
        for state in group:
            state.restored(reused)

    def _piece(self, row: int, most: int) -> _Read:
        """The next tokens of a prompt, about `most` of them."""
        state, *_ = self._rows[row]
        unread = state.next_read()
        count = state.num_cached + len(unread)
        stop = next_stop(state.num_cached, count, most, even=self._session.even)
        return _Read(unread[: stop - state.num_cached], prompt=True, last=stop == count)

    def _drafts(self, rows: Collection[int]) -> dict[int, list[int]]:
        """The draft of each of the rows that has one, as far as the budget goes, which is of these very requests."""
        states = {row: self._rows[row][0] for row in rows}
        drafting = list(states.values()) if any(state.drafts for state in states.values()) else []
        if self._drafting != drafting:
            self._drafting, self._budget = drafting, DraftBudget()
        drafts = {row: draft for row, state in states.items() if drafting and (draft := state.propose())}
        if not drafts:
            return {}
        longest = max(map(len, drafts.values()))
        count = self._budget.draft_tokens(longest, drafting=len(drafts), plain=len(rows) - len(drafts))
        return {row: draft[:count] for row, draft in drafts.items()} if count else {}

    def _read(self, reads: Reads) -> list[list[Row]]:
        """Steps the session: of each row the logits [1 + G], none where it has more to read or reads nothing, [B]."""
        groups = [self._rows.get(row, ()) for row in range(self._cache.batch_size)]
        every = [reads.get(row, NOTHING) for row in range(self._cache.batch_size)]
        cache = self._cache.crop([group[0].num_cached if group else 0 for group in groups])
        counts = [_top_k_needed(group) for group in groups]
        logits, self._cache = self._session.step_top_k(
            [read.ids for read in every], cache, counts, [read.keep for read in every]
        )
        return logits

    def _append(self, reads: Reads, logits: Sequence[Sequence[Row]], start: float) -> StepOutputs:
        """What the logits make of the requests; those after a prompt are for all of its group."""
        outputs: StepOutputs = []
        tokens = {}  # row -> how many were chosen
        for row, read in reads.items():
            if not read.last:
                for state in self._rows[row]:
                    state.advance(len(read.ids), seconds=perf_counter() - start)
                continue
            self._keep(row)
            for state in self._rows[row]:
                try:
                    choices = state.choose(logits[row], read.draft)
                except GPT2RuntimeError as error:
                    state.fail()
                    outputs.append((state, error))
                else:
                    tokens[row] = len(choices)
                    events = state.append(choices, seconds=perf_counter() - start, drafted=len(read.draft))
                    outputs += [(state, event) for event in events]
            self._leave(row)
        self._measure(reads, tokens, perf_counter() - start)
        return outputs

    def _keep(self, row: int) -> None:
        """Keeps a prompt that is now read, for those that start like it."""
        if self._prefixes is not None and row in self._kept:
            self._kept.discard(row)
            self._prefixes.keep(self._rows[row][0].ids, self._cache, row)

    def _leave(self, row: int) -> None:
        """Frees a row whose request has ended; of a group that has read its prompt, one alone goes on in it."""
        left = [state for state in self._rows[row] if not state.ended]
        if not left:
            del self._rows[row]
            return
        state, *others = left
        self._rows[row] = (state,)
        if others:
            snapshot = self._cache.snapshot(row, state.num_cached)
            self._waiting.extendleft(_Waiting(group=(each,), snapshot=snapshot) for each in reversed(others))

    def _measure(self, reads: Reads, tokens: Mapping[int, int], seconds: float) -> None:
        """Enters a step into the budget of drafts. One that reads a prompt measures nothing."""
        if not self._drafting or not tokens or any(read.prompt for read in reads.values()):
            return
        drafts = {row: len(reads[row].draft) for row in tokens if reads[row].draft}
        drafted = max(drafts.values(), default=0)
        right = (drafted if tokens[row] > count else tokens[row] - 1 for row, count in drafts.items())
        self._budget = self._budget.after(
            seconds=seconds,
            drafted=drafted,
            tokens=min(tokens.values()),
            right=min(right, default=0),
            drafting=len(drafts),
            plain=len(reads) - len(drafts),
        )


def check_rows(rows: int, session: Session) -> None:
    """SettingError for a number of rows that a scheduler of this session cannot have."""
    check_integer("rows", rows, 1, MOST_ROWS)
    if rows > 1 and session.graph == "portable":
        problem = f"rows is {rows}, the portable graph decodes requests of different lengths one by one"
        raise SettingError(f"{problem}; pass 1, or open the serving graph", parameter="rows", value=rows)


def _top_k_needed(group: Group) -> int | None:
    """How many of the highest logits are enough for all of them; None for all logits."""
    needed = [state.top_k_needed for state in group]
    return None if None in needed else max(filter(None, needed), default=1)


def _without(group: Group, gone: RequestState) -> Group:
    return tuple(state for state in group if state is not gone)
