"""Many requests over a few rows: each ends as it does alone."""

import numpy as np
import pytest
from gpt2_runtime import GREEDY, Finished, SamplingConfig, Token, generate
from gpt2_runtime.errors import SettingError
from gpt2_runtime.generation.prefix_cache import PrefixCache
from gpt2_runtime.generation.request import Request
from gpt2_runtime.generation.request_state import RequestState
from gpt2_runtime.generation.scheduler import Scheduler

SAMPLINGS = (
    GREEDY,
    SamplingConfig(temperature=1.5),
    SamplingConfig(temperature=0.7, top_k=20, repetition_penalty=1.3),
    SamplingConfig(top_p=0.8, frequency_penalty=0.5, presence_penalty=0.5, min_new_tokens=3),
    SamplingConfig(temperature=0, no_repeat_ngram_size=2, logit_bias={7: 5.0}),
)


def requests(count, seed=0):
    """Requests of any length and setting."""
    rng = np.random.default_rng(seed)
    return [
        Request(
            prompt_ids=rng.integers(0, 299, size=rng.integers(1, 61)).tolist(),
            max_new_tokens=int(rng.integers(0, 30)),
            sampling=SAMPLINGS[number % len(SAMPLINGS)],
            stop_token_ids=frozenset(rng.integers(0, 299, size=3).tolist()),
            overflow="slide" if number % 3 == 0 else "error",
            logprobs=2 if number % 4 == 0 else None,
        )
        for number in range(count)
    ]


def alone(session, request, seed):
    settings = {name: getattr(request, name) for name in ("max_new_tokens", "sampling", "stop_token_ids", "overflow")}
    rng = np.random.default_rng(seed)
    return list(generate(session, request.prompt_ids, rng=rng, logprobs=request.logprobs, **settings))


def together(scheduler):
    """The events of each state."""
    outputs = {}
    while not scheduler.idle:
        for state, event in scheduler.step():
            outputs.setdefault(state, []).append(event)
    return outputs


def same(events, others):
    """Whether two texts are one, but for the time they took."""
    assert [(type(a), getattr(a, "id", None)) for a in events] == [(type(b), getattr(b, "id", None)) for b in others]
    for a, b in zip(events, others, strict=True):
        if isinstance(a, Finished):
            assert (a.reason, a.truncated, a.slides) == (b.reason, b.truncated, b.slides)
        elif a.logprob is not None:
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
            assert [id_ for id_, _ in a.top_logprobs] == [id_ for id_, _ in b.top_logprobs]
    return True


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_each_request_ends_as_it_does_alone(session, rows):
    wanted = requests(40)
    scheduler = Scheduler(session, rows=rows)
    states = [RequestState(session, request, np.random.default_rng(seed)) for seed, request in enumerate(wanted)]
    for state in states:
        scheduler.submit(state)
    outputs = together(scheduler)
    for seed, (state, request) in enumerate(zip(states, wanted, strict=True)):
        assert same(outputs[state], alone(session, request, seed))
    assert sum(isinstance(events[-1], Finished) for events in outputs.values()) == 40


def test_the_portable_graph_takes_one_row(portable):
    states = [RequestState(portable, request, np.random.default_rng(0)) for request in requests(5)]
    scheduler = Scheduler(portable, rows=1)
    for state in states:
        scheduler.submit(state)
    outputs = together(scheduler)
    for state in states:
        assert same(outputs[state], alone(portable, state.request, 0))
    with pytest.raises(SettingError, match=r"rows is 2, the portable graph .*; pass 1, or open the serving graph"):
        Scheduler(portable, rows=2)


@pytest.mark.parametrize("rows", [0, -1, True, 1.5, "8"])
def test_rows_out_of_range_are_refused(session, rows):
    with pytest.raises(SettingError, match="rows is"):
        Scheduler(session, rows=rows)


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_continuations_of_one_prompt_read_it_once(session, monkeypatch, rows):
    read, step = [], type(session).step_top_k
    monkeypatch.setattr(
        type(session),
        "step_top_k",
        lambda self, ids, *rest: read.append(sum(map(len, ids))) or step(self, ids, *rest),
    )
    request = Request(
        prompt_ids=list(range(5, 45)), max_new_tokens=6, sampling=SamplingConfig(), stop_token_ids=frozenset()
    )
    group = [RequestState(session, request, np.random.default_rng(seed)) for seed in range(5)]
    scheduler = Scheduler(session, rows=rows)
    scheduler.submit(*group)
    outputs = together(scheduler)
    assert sum(read) == 40 + 5 * 5
    texts = [tuple(event.id for event in outputs[state] if isinstance(event, Token)) for state in group]
    assert len(set(texts)) > 1
    for seed, state in enumerate(group):
        assert same(outputs[state], alone(session, request, seed))


@pytest.mark.parametrize("rows", [1, 4])
def test_what_prompts_share_is_read_once_and_changes_nothing(session, rows):
    rng = np.random.default_rng(5)
    shared = rng.integers(0, 299, size=40).tolist()
    wanted = [
        Request(
            prompt_ids=shared + rng.integers(0, 299, size=size).tolist(),
            max_new_tokens=8,
            sampling=SAMPLINGS[size % len(SAMPLINGS)],
            stop_token_ids=frozenset(),
        )
        for size in (3, 10, 14, 6, 12, 2)
    ]
    prefixes = PrefixCache(session, max_bytes=2**24)
    scheduler = Scheduler(session, rows=rows, prefixes=prefixes)
    states = [RequestState(session, request, np.random.default_rng(seed)) for seed, request in enumerate(wanted)]
    for state in states:
        scheduler.submit(state)
    outputs = together(scheduler)
    for seed, (state, request) in enumerate(zip(states, wanted, strict=True)):
        assert same(outputs[state], alone(session, request, seed))
    assert [outputs[state][-1].reused for state in states] == [0, 32, 32, 32, 32, 32]
    # What was kept has the bits of a prompt that is read alone.
    request = wanted[2]
    *_, end = with_kept = list(
        generate(session, request.prompt_ids, max_new_tokens=8, sampling=GREEDY, logprobs=0, prefixes=prefixes)
    )
    plain = list(generate(session, request.prompt_ids, max_new_tokens=8, sampling=GREEDY, logprobs=0))
    assert end.reused > 0
    assert [getattr(event, "logprob", None) for event in with_kept] == [getattr(e, "logprob", None) for e in plain]


def test_a_request_that_is_cancelled_yields_no_more_and_leaves_its_row(session):
    request = Request(prompt_ids=[5], max_new_tokens=20, sampling=GREEDY, stop_token_ids=frozenset())
    running, waiting, other = (RequestState(session, request, np.random.default_rng(0)) for _ in range(3))
    scheduler = Scheduler(session, rows=1)
    for state in (running, waiting, other):
        scheduler.submit(state)
    assert [state for state, _ in scheduler.step()] == [running]
    scheduler.cancel(running)
    scheduler.cancel(waiting)
    outputs = together(scheduler)
    assert list(outputs) == [other]
    assert same(outputs[other], alone(session, request, 0))


def test_a_request_whose_settings_leave_no_token_does_not_end_the_others(session):
    nothing = SamplingConfig(logit_bias=dict.fromkeys(range(300), float("-inf")))
    good, bad = (
        RequestState(session, Request(prompt_ids=[5], max_new_tokens=3, sampling=sampling), np.random.default_rng(0))
        for sampling in (GREEDY, nothing)
    )
    scheduler = Scheduler(session, rows=2)
    scheduler.submit(bad)
    scheduler.submit(good)
    outputs = together(scheduler)
    assert [type(event) for event in outputs[bad]] == [SettingError]
    assert isinstance(outputs[good][-1], Finished)


def test_free_rows_are_those_that_nothing_waits_for(session):
    request = Request(prompt_ids=[5], max_new_tokens=2, sampling=GREEDY, stop_token_ids=frozenset())
    scheduler = Scheduler(session, rows=3)
    assert (scheduler.free, scheduler.idle) == (3, True)
    scheduler.submit(*(RequestState(session, request, np.random.default_rng(0)) for _ in range(2)))
    assert (scheduler.free, scheduler.idle) == (1, False)
    scheduler.step()
    assert scheduler.free == 1
    together(scheduler)
    assert (scheduler.free, scheduler.idle) == (3, True)
