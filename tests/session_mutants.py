"""Known bugs in feeding a graph, applied to a correct session."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import backends
import numpy as np
import pytest
from gpt2_runtime import Session
from gpt2_runtime.engine import binding, packed_session, portable_graph, serving_graph, step_plan
from gpt2_runtime.engine.buffers import Allocation
from gpt2_runtime.engine.logits import HostLogits, Logits
from sweep import Array, Step

Make = Callable[[pytest.MonkeyPatch], None]
Fed = dict[str, Array]


class Mutant(NamedTuple):
    """A bug in the use of a graph, and the way of reading that exposes it."""

    graph: str
    reader: Callable[[Session], Step]
    make: Make


MUTANTS: dict[str, Mutant] = {}


def mistake(
    name: str, graph: str = "serving", reader: Callable[[Session], Step] = backends.runtime
) -> Callable[[Make], Make]:
    def enter(make: Make) -> Make:
        MUTANTS[name] = Mutant(graph, reader, make)
        return make

    return enter


def names(module: Any, prefix: str, change: Callable[[list[str]], list[str]]) -> Make:
    """Changes the order in which a module binds the caches named `prefix`."""
    right = module.cache_names

    def wrong(called: str, n_layer: int) -> list[str]:
        names: list[str] = right(called, n_layer)
        return change(names) if called == prefix else names

    return lambda patch: patch.setattr(module, "cache_names", wrong)


def swapped(names: list[str]) -> list[str]:
    return [name for pair in zip(names[1::2], names[::2], strict=True) for name in pair]


def reversed_layers(names: list[str]) -> list[str]:
    return [name for layer in range(len(names) - 2, -1, -2) for name in names[layer : layer + 2]]


mistake("keys and values swapped in the session")(names(binding, "present", swapped))
mistake("the cache of one layer given to another in the session")(names(binding, "present", reversed_layers))
mistake("keys and values swapped in the portable session", graph="portable")(
    names(portable_graph, "past_key_values", swapped)
)
mistake("the cache of one layer given to another in the portable session", graph="portable")(
    names(portable_graph, "past_key_values", reversed_layers)
)


@mistake("positions that restart with every step of the portable session", graph="portable")
def portable_positions_restart(patch: pytest.MonkeyPatch) -> None:
    count = np.arange
    patch.setattr(np, "arange", lambda start, stop, **named: count(0, stop - start, **named))


@mistake("a roll-back of the portable session that keeps the tensors", graph="portable", reader=backends.restless)
def portable_not_cut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(portable_graph, "cut", lambda tensor, length: tensor)


@mistake("prefill of the portable session with the last chunk alone", graph="portable")
def last_chunk_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(portable_graph, "PREFILL_CHUNK", 8)
    run = portable_graph.PortableGraph._run

    def forgetting(self: Any, ids: Array, cache: Any) -> Any:
        scores, after = run(self, ids, cache)
        return scores, after if ids.shape[1] < 8 else cache

    patch.setattr(portable_graph.PortableGraph, "_run", forgetting)


def fed_with(change: Callable[[Fed, step_plan.GraphCall, Sequence[int]], None]) -> Make:
    """Changes the feeds of each call of the serving graph; `change` gets the call and its rows' lengths before it."""

    def make(patch: pytest.MonkeyPatch) -> None:
        right = serving_graph.feeds

        def wrong(
            run: step_plan.GraphCall, rows: Sequence[Array], past: Sequence[int], keep: Sequence[int], *, even: bool
        ) -> Fed:
            fed = right(run, rows, past, keep, even=even)
            change(fed, run, past[run.first : run.first + len(run.reads)])
            return fed

        patch.setattr(serving_graph, "feeds", wrong)

    return make


def counting_on(run: step_plan.GraphCall) -> bool:
    """Whether each row reads one token, or one row reads several: not the right-padded start."""
    return run.tokens == 1 or len(run.reads) == 1


@mistake("positions that restart with every step of the session")
@fed_with
def positions_restart(fed: Fed, run: step_plan.GraphCall, past: Sequence[int]) -> None:
    fed["position_ids"][...] = np.arange(run.tokens)


@mistake("positions that restart with every chunk of a prompt")
def positions_restart_in_chunks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(serving_graph, "PREFILL_CHUNK", 8)

    @fed_with
    def make(fed: Fed, run: step_plan.GraphCall, past: Sequence[int]) -> None:
        fed["position_ids"][...] = np.array(past)[:, None] + np.arange(run.tokens)

    make(patch)


@mistake("positions of the longest row for all rows")
@fed_with
def positions_of_the_longest(fed: Fed, run: step_plan.GraphCall, past: Sequence[int]) -> None:
    fed["position_ids"][...] = fed["position_ids"].max(axis=0)


@mistake("row lengths one too large")
@fed_with
def lengths_too_large(fed: Fed, run: step_plan.GraphCall, past: Sequence[int]) -> None:
    if counting_on(run) and max(past):
        fed["seqlens_k"] += 1
        fed["total_sequence_length"] += 1


@mistake("row lengths one too small")
@fed_with
def lengths_too_small(fed: Fed, run: step_plan.GraphCall, past: Sequence[int]) -> None:
    if counting_on(run) and min(past):
        fed["seqlens_k"] -= 1
        fed["total_sequence_length"] -= 1


@mistake("the longest row's length for all rows")
@fed_with
def longest_length(fed: Fed, run: step_plan.GraphCall, past: Sequence[int]) -> None:
    fed["seqlens_k"][...] = fed["seqlens_k"].max()


@mistake("lengths of the new tokens alone")
@fed_with
def new_alone(fed: Fed, run: step_plan.GraphCall, past: Sequence[int]) -> None:
    fed["seqlens_k"][...] = run.tokens - 1


@mistake("total length of the new tokens alone, which says that the cache is empty")
@fed_with
def total_of_new(fed: Fed, run: step_plan.GraphCall, past: Sequence[int]) -> None:
    fed["total_sequence_length"][...] = run.tokens


@mistake("logits of a padded row's end instead of its text's")
@fed_with
def padded_end(fed: Fed, run: step_plan.GraphCall, past: Sequence[int]) -> None:
    for at, place in enumerate(fed["logits_index"]):
        row, token = divmod(int(place), run.tokens)
        fed["logits_index"][at] = row * run.tokens + token + run.tokens - len(run.reads[row])


@mistake("logits of the token before")
@fed_with
def token_before(fed: Fed, run: step_plan.GraphCall, past: Sequence[int]) -> None:
    fed["logits_index"][...] = np.maximum(fed["logits_index"] - 1, 0)


@mistake("logits counted from the first row of the batch instead of the run's")
def places_from_the_batch(patch: pytest.MonkeyPatch) -> None:
    right = serving_graph.logit_slots
    patch.setattr(
        serving_graph,
        "logit_slots",
        lambda run, rows, keep: [(row - run.first, k) for row, k in right(run, rows, keep)],
    )


@mistake("logits of ragged rows aligned at the start")
def aligned_at_the_start(patch: pytest.MonkeyPatch) -> None:
    right = serving_graph.logit_slots

    def wrong(run: step_plan.GraphCall, rows: Sequence[Array], keep: Sequence[int]) -> list[tuple[int, int]]:
        return [(row, k - keep[row] + min(keep[row], len(rows[row]))) for row, k in right(run, rows, keep)]

    patch.setattr(serving_graph, "logit_slots", wrong)


@mistake("a roll-back that forgets to shorten", reader=backends.restless)
def not_shortened(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(serving_graph.SharedCache, "_shortened", lambda self, lengths: self)


@mistake("a roll-back of all rows to the first one's length", reader=backends.restless)
def shortened_to_the_first(patch: pytest.MonkeyPatch) -> None:
    right = serving_graph.SharedCache._shortened
    patch.setattr(
        serving_graph.SharedCache, "_shortened", lambda self, lengths: right(self, lengths[:1] * len(lengths))
    )


@mistake("a roll-back after which rows count as identical as before", reader=backends.shuffled)
def as_identical_as_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(serving_graph.SharedCache, "_shortened", lambda self, lengths: replace(self, lengths=lengths))


def selected_by(move: Callable[[Array, tuple[int, ...]], None]) -> Make:
    """Selects rows in place, moving them in another way."""

    def make(patch: pytest.MonkeyPatch) -> None:
        right = serving_graph.SharedCache._selected

        def wrong(self: Any, rows: tuple[int, ...]) -> Any:
            if len(rows) > self.buffers.array.shape[2]:
                return right(self, rows)
            move(self.buffers.array, rows)
            return replace(self, lengths=tuple(self.lengths[row] for row in rows))

        patch.setattr(serving_graph.SharedCache, "_selected", wrong)

    return make


@mistake("a selection that moves nothing", reader=backends.shuffled)
@selected_by
def nothing_moved(array: Array, rows: tuple[int, ...]) -> None:
    pass


@mistake("a selection that writes over rows before they are read", reader=backends.shuffled)
@selected_by
def written_before_read(array: Array, rows: tuple[int, ...]) -> None:
    for place, row in enumerate(rows):
        array[:, :, place] = array[:, :, row]


@mistake("a selection of the portable session in the rows' old order", graph="portable", reader=backends.shuffled)
def portable_in_old_order(patch: pytest.MonkeyPatch) -> None:
    right = portable_graph.gathered
    patch.setattr(portable_graph, "gathered", lambda tensor, rows: right(tensor, sorted(rows)))


@mistake("the view of a row's cache off by one row")
def view_off_by_one(patch: pytest.MonkeyPatch) -> None:
    right = packed_session.PackedSession.binding

    def wrong(self: Any, allocation: Allocation, first: int, rows: int, tokens: int, logits: int) -> Any:
        shifted = (first + 1) % allocation.shape[2] if rows == 1 else first
        return right(self, allocation, shifted, rows, tokens, logits)

    patch.setattr(packed_session.PackedSession, "binding", wrong)


@mistake("an idle row's computation written over its last token", reader=backends.restless)
@fed_with
def idle_overwritten(fed: Fed, run: step_plan.GraphCall, past: Sequence[int]) -> None:
    for row, read in enumerate(run.reads):
        if not read:
            fed["seqlens_k"][row] = max(0, past[row] - 1)


@mistake("rows of one token after the others, which loses the others' new cache entries", reader=backends.restless)
def one_token_last(patch: pytest.MonkeyPatch) -> None:
    right = serving_graph.plan

    def wrong(*args: Any, **settings: Any) -> list[step_plan.GraphCall]:
        return sorted(right(*args, **settings), key=lambda run: run.tokens == 1)

    patch.setattr(serving_graph, "plan", wrong)


@mistake("padding over rows that are not empty", reader=backends.restless)
def padded_over_a_past(patch: pytest.MonkeyPatch) -> None:
    right = serving_graph.plan
    # The operator refuses several rows of several tokens unless all are declared empty.
    patch.setattr(serving_graph, "plan", lambda past, *rest, even: right([0] * len(past), *rest, even=even))

    @fed_with
    def make(fed: Fed, run: step_plan.GraphCall, past: Sequence[int]) -> None:
        if not counting_on(run):
            fed["total_sequence_length"][...] = run.tokens

    make(patch)


@mistake("a binding used again with the lengths of its first run")
def stale_binding(patch: pytest.MonkeyPatch) -> None:
    right = binding.Binding.run

    def wrong(self: Any, feeds: Fed) -> Logits:
        self.first_feeds = getattr(self, "first_feeds", feeds)
        stale = {name: self.first_feeds[name] for name in ("seqlens_k", "total_sequence_length")}
        return right(self, feeds | stale)

    patch.setattr(binding.Binding, "run", wrong)


@mistake("a binding looked up by its tokens alone, whatever its rows")
def binding_of_other_rows(patch: pytest.MonkeyPatch) -> None:
    right, first_of = packed_session.PackedSession.binding, WeakKeyDictionary[Allocation, dict[tuple[int, ...], int]]()

    def wrong(self: Any, allocation: Allocation, first: int, rows: int, tokens: int, logits: int) -> Any:
        stale = first_of.setdefault(allocation, {}).setdefault((rows, tokens, logits), first)
        return right(self, allocation, stale, rows, tokens, logits)

    patch.setattr(packed_session.PackedSession, "binding", wrong)


@mistake("logits that the next step overwrites")
def logits_reused(patch: pytest.MonkeyPatch) -> None:
    right, buffers = binding.Binding.run, {}

    def wrong(self: Any, feeds: Fed) -> Logits:
        logits = right(self, feeds).all()
        buffer: Array = buffers.setdefault(logits.shape, logits)
        buffer[...] = logits
        return HostLogits(buffer)

    patch.setattr(binding.Binding, "run", wrong)
