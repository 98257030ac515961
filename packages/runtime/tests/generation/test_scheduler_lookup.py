"""Prompt lookup in a batch: each row has the tokens that it has alone, and a row without a draft is not padded."""

import numpy as np
import pytest
from gpt2_runtime import GREEDY, Finished, LookupConfig, SamplingConfig, Session, generate
from gpt2_runtime.engine import serving_graph
from gpt2_runtime.generation.prompt_lookup import DraftBudget
from gpt2_runtime.generation.request import Request
from gpt2_runtime.generation.request_state import RequestState
from gpt2_runtime.generation.scheduler import Scheduler

SAMPLINGS = (
    GREEDY,
    SamplingConfig(temperature=0.5, top_k=5),
    SamplingConfig(),
    SamplingConfig(temperature=0.3, repetition_penalty=1.1),
)


def requests(count):
    """Mixed rows: phrases over and over and texts without repetition, greedy and sampled, of any length."""
    rng = np.random.default_rng(2)
    for number in range(count):
        phrase = rng.integers(0, 299, size=rng.integers(1, 6)).tolist()
        yield Request(
            prompt_ids=phrase * 4 if number % 3 else rng.integers(0, 299, size=20).tolist(),
            max_new_tokens=int(rng.integers(20, 50)),
            sampling=SAMPLINGS[number % 4],
            stop_token_ids=frozenset(rng.integers(0, 299, size=2).tolist()),
            overflow="slide" if number % 5 == 0 else "error",
        )


def alone(session, request, seed):
    """The ids, why they ended, and the draws that are left, without lookup."""
    rng = np.random.default_rng(seed)
    names = ("max_new_tokens", "sampling", "stop_token_ids", "overflow")
    *events, end = generate(session, request.prompt_ids, rng=rng, **{name: getattr(request, name) for name in names})
    return [event.id for event in events], end.reason, rng.bit_generator.state


def together(session, lookups, rows, **settings):
    """The same of rows of a batch; how many tokens were drafted, and how many of them came true."""
    scheduler = Scheduler(session, rows=rows, **settings)
    rngs = [np.random.default_rng(seed) for seed in range(len(lookups))]
    states = [
        RequestState(session, request, rng, lookup)
        for request, rng, lookup in zip(requests(len(lookups)), rngs, lookups, strict=True)
    ]
    for state in states:
        scheduler.submit(state)
    ends, drafted, right = {}, 0, 0
    while not scheduler.idle:
        for state, event in scheduler.step():
            if isinstance(event, Finished):
                ends[state] = event.reason
                drafted, right = drafted + event.timings.draft_tokens, right + event.timings.accepted_tokens
    found = [(state.new_ids, ends[state], rng.bit_generator.state) for state, rng in zip(states, rngs, strict=True)]
    return found, drafted, right


@pytest.fixture
def always(monkeypatch):
    """Each draft is verified, as far as five tokens go, whatever it costs."""
    monkeypatch.setattr(DraftBudget, "draft_tokens", lambda self, most, **_: min(most, 5) if self.tokens else 0)


CHOSEN = {
    "every row": [LookupConfig()] * 16,
    "every other row": [LookupConfig(), None] * 8,
    "of each its own": [LookupConfig(max_draft_tokens=1 + row % 7, min_ngram=1 + row % 3) for row in range(16)],
}


@pytest.mark.parametrize("rows", [1, 2, 8])
@pytest.mark.parametrize("lookups", CHOSEN.values(), ids=CHOSEN)
@pytest.mark.usefixtures("always")
def test_mixed_rows_have_the_tokens_that_each_has_alone(serving, lookups, rows):
    found, drafted, right = together(serving, lookups, rows, prefill_chunk=16)
    for seed, (request, outcome) in enumerate(zip(requests(16), found, strict=True)):
        assert outcome == alone(serving, request, seed)
    assert 20 < right < drafted


@pytest.mark.parametrize("rows", [1, 3])
def test_so_they_have_where_the_budget_decides(serving, rows):
    found, *_ = together(serving, [LookupConfig()] * 16, rows)
    for seed, (request, outcome) in enumerate(zip(requests(16), found, strict=True)):
        assert outcome == alone(serving, request, seed)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(("fast_single", "drafts"), [(False, False), (True, True)])
def test_where_several_tokens_have_other_bits_nothing_is_drafted(folder, fast_single, drafts):
    session = Session.open(folder, threads=1, precision="int8", graph="serving", fast_single=fast_single)
    found, drafted, _ = together(session, [LookupConfig()] * 8, 3)
    assert bool(drafted) == drafts
    if not drafts:
        assert found == [alone(session, request, seed) for seed, request in enumerate(requests(8))]


@pytest.mark.usefixtures("always")
def test_a_row_without_a_draft_is_neither_padded_nor_given_more_logits(serving, monkeypatch):
    calls, run = [], serving_graph.plan

    def planned(past, new, *rest, **settings):
        found = run(past, new, *rest, **settings)
        calls.append((new, found))
        return found

    monkeypatch.setattr(serving_graph, "plan", planned)
    keeps, step = [], Session.step_top_k
    monkeypatch.setattr(
        Session, "step_top_k", lambda self, ids, *rest: keeps.append(rest[-1]) or step(self, ids, *rest)
    )
    together(serving, [LookupConfig(), None, LookupConfig(), None, None], 5)
    mixed = [(new, found) for new, found in calls if 1 in new and max(new) > 1 and max(new) <= 6]
    assert len(mixed) > 5
    for _, found in mixed:
        for call in found:
            assert call.padding == 0
            several = [len(read) for read in call.reads if len(read) > 1]
            assert len(call.reads) == 1 if several else call.tokens == 1
        assert sum(1 for call in found if call.tokens == 1) == 1
    decode = [keep for keep, (new, _) in zip(keeps, calls, strict=True) if (new, _) in mixed]
    assert all(keep == list(new) for keep, (new, _) in zip(decode, mixed, strict=True))


def test_a_step_that_reads_a_prompt_drafts_nothing(serving, monkeypatch):
    monkeypatch.setattr(DraftBudget, "draft_tokens", lambda self, most, **_: most if self.tokens else 0)
    read, step = [], Session.step_top_k
    monkeypatch.setattr(
        Session, "step_top_k", lambda self, ids, *rest: read.append(list(map(len, ids))) or step(self, ids, *rest)
    )
    request = Request(prompt_ids=[5, 6, 7] * 6, max_new_tokens=40, sampling=GREEDY, stop_token_ids=frozenset())
    scheduler = Scheduler(serving, rows=2, prefill_chunk=16)
    first, second = (RequestState(serving, request, np.random.default_rng(), LookupConfig()) for _ in range(2))
    scheduler.submit(first)
    for _ in range(4):
        scheduler.step()
    scheduler.submit(second)
    while not second.num_cached:
        scheduler.step()
    while not scheduler.idle:
        scheduler.step()
    beside = [lengths for lengths in read if lengths[1] in (16, 2)]
    assert beside[0] == [1, 16]
    assert max(lengths[0] for lengths in read if lengths[1] > 0) > 1
    assert first.new_ids == second.new_ids
