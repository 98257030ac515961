"""Prompts that are read in pieces while other rows decode: the same bits for every size, and no row waits longer."""

import numpy as np
import pytest
from gpt2_runtime import GREEDY, PrefixCache, SamplingConfig, Session, Token, generate
from gpt2_runtime.engine import portable_graph, serving_graph
from gpt2_runtime.errors import SettingError
from gpt2_runtime.generation import prefix_cache
from gpt2_runtime.generation.prefix_cache import next_stop
from gpt2_runtime.generation.request import Request
from gpt2_runtime.generation.request_state import RequestState
from gpt2_runtime.generation.scheduler import Scheduler
from hypothesis import given
from hypothesis import strategies as st

LIMIT = 64  # n_positions of the folder
TEXT = np.random.default_rng(3).integers(0, 299, size=LIMIT).tolist()
SHARED = np.random.default_rng(4).integers(0, 299, size=LIMIT).tolist()


@pytest.fixture(params=["fp32", "int8", "int4"], scope="module")
def opened(request, folder):
    return Session.open(folder, threads=1, graph="serving", precision=request.param)


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of 32 tokens, for the fixture's model reads 64."""
    for module, name in ((serving_graph, "PREFILL_CHUNK"), (portable_graph, "PREFILL_CHUNK"), (prefix_cache, "CHUNK")):
        monkeypatch.setattr(module, name, 32)


def state(session, prompt, seed=0, **settings):
    wanted = {"max_new_tokens": 4, "sampling": GREEDY, "stop_token_ids": frozenset(), "logprobs": 2} | settings
    return RequestState(session, Request(prompt_ids=prompt, **wanted), np.random.default_rng(seed))


def complaint(events):
    """The ids, the log-probabilities to their last bit, and why it ended."""
    *tokens, end = events
    return [(token.id, token.logprob, token.top_logprobs) for token in tokens], (end.reason, end.slides, end.reused)


def alone(session, prompt, seed=0, **settings):
    wanted = {"max_new_tokens": 4, "sampling": GREEDY, "stop_token_ids": (), "logprobs": 2} | settings
    return complaint(generate(session, prompt, rng=np.random.default_rng(seed), **wanted))


def joined(scheduler, runner, *joining):
    """The events of those that join a row which decodes, and of that row."""
    scheduler.submit(runner)
    events = {runner: [event for _, event in scheduler.step()]}
    for each in joining:
        scheduler.submit(each)
    while not scheduler.idle:
        for each, event in scheduler.step():
            events.setdefault(each, []).append(event)
    return [complaint(events[each]) for each in (runner, *joining)]


@pytest.mark.parametrize("chunk", [16, 20, 32, 48, None])
@pytest.mark.usefixtures("short_chunks")
def test_a_prompt_has_the_same_bits_in_pieces_of_every_size(opened, chunk):
    for length in (2, 16, 17, 18, 31, 32, 33, 34, 47, 48, 49, 50, 60):
        scheduler = Scheduler(opened, rows=2, prefill_chunk=chunk)
        runner, joining = (state(opened, ids, max_new_tokens=9) for ids in (TEXT[:3], TEXT[:length]))
        found = joined(scheduler, runner, joining)
        expected = [alone(opened, ids, max_new_tokens=9) for ids in (TEXT[:3], TEXT[:length])]
        assert found == expected, length


@pytest.mark.parametrize("chunk", [16, 32, None])
@pytest.mark.usefixtures("short_chunks")
def test_so_it_has_with_prefixes_that_are_kept_and_reused(opened, chunk):
    prefixes = PrefixCache(opened, max_bytes=2**24)
    prompts = [SHARED[:20] + TEXT[:size] for size in (3, 30, 12, 29, 4, 31)]
    expected = [alone(opened, ids, seed)[0] for seed, ids in enumerate(prompts)]
    reused = set()
    for _ in range(2):
        scheduler = Scheduler(opened, rows=4, prefill_chunk=chunk, prefixes=prefixes)
        runner = state(opened, TEXT[:2], max_new_tokens=20)
        _, *found = joined(scheduler, runner, *(state(opened, ids, seed) for seed, ids in enumerate(prompts)))
        assert [tokens for tokens, _ in found] == expected
        reused |= {end[2] for _, end in found}
    assert reused >= {0, 16, 32}


@pytest.mark.parametrize("chunk", [16, 32])
@pytest.mark.usefixtures("short_chunks")
def test_a_window_that_moves_on_is_read_again_in_pieces(opened, chunk):
    settings = {"overflow": "slide", "max_new_tokens": 90}
    runner = state(opened, TEXT[:5], max_new_tokens=1000, overflow="slide")
    scheduler = Scheduler(opened, rows=2, prefill_chunk=chunk)
    sliding = state(opened, TEXT[:50], **settings)
    scheduler.submit(runner)
    scheduler.submit(sliding)
    events = []
    while not sliding.ended:
        events += [event for each, event in scheduler.step() if each is sliding]
    found, expected = complaint(events), alone(opened, TEXT[:50], **settings)
    assert ([id_ for id_, *_ in found[0]], found[1]) == ([id_ for id_, *_ in expected[0]], expected[1])
    assert found[1][1] == 3


def lengths_read(monkeypatch, runners):
    """For each step the tokens that rows read which do not decode; asserts that those which do have one each."""
    read, step = [], Session.step_top_k

    def counted(self, ids, *rest):
        assert all(len(row) == 1 for row in ids[:runners])
        read.append(sum(map(len, ids[runners:])))
        return step(self, ids, *rest)

    monkeypatch.setattr(Session, "step_top_k", counted)
    return read


@pytest.mark.parametrize(("chunk", "pieces"), [(16, [16, 16, 16, 12]), (32, [32, 28]), (40, [32, 28]), (None, [60])])
def test_rows_that_decode_have_a_token_in_each_step_beside_one_chunk(session, monkeypatch, chunk, pieces):
    scheduler = Scheduler(session, prefill_chunk=chunk)
    runners = [state(session, [5 + row], row, max_new_tokens=40) for row in range(7)]
    for each in runners:
        scheduler.submit(each)
    scheduler.step()
    read = lengths_read(monkeypatch, 7)
    joining = state(session, TEXT[:60])
    scheduler.submit(joining)
    first = None
    while first is None:
        outputs = scheduler.step()
        assert {each for each, event in outputs if isinstance(event, Token)} >= set(runners)
        first = next((event for each, event in outputs if each is joining), None)
    assert read == pieces
    assert first.index == 0


def test_where_no_row_decodes_prompts_are_read_at_once(session, monkeypatch):
    scheduler = Scheduler(session, prefill_chunk=16)
    read = lengths_read(monkeypatch, 0)
    scheduler.submit(state(session, TEXT[:60]))
    scheduler.submit(state(session, TEXT[:50]))
    scheduler.step()
    assert read == [110]


def test_short_prompts_share_a_chunk_and_keep_their_order(session, monkeypatch):
    scheduler = Scheduler(session, prefill_chunk=32)
    runner = state(session, [5], max_new_tokens=40)
    scheduler.submit(runner)
    scheduler.step()
    read = lengths_read(monkeypatch, 1)
    joining = [state(session, TEXT[:length]) for length in (20, 10, 40, 2)]
    for each in joining:
        scheduler.submit(each)
    begun = []
    for _ in range(4):
        events = [(each, event) for each, event in scheduler.step() if each is not runner]
        begun.append([joining.index(each) for each, event in events if getattr(event, "index", None) == 0])
    assert begun[:3] == [[0, 1], [], [2, 3]]
    assert read[0] == 30


def test_when_the_one_that_reads_is_cancelled_another_of_its_group_reads_on(session, monkeypatch):
    scheduler = Scheduler(session, rows=4, prefill_chunk=16)
    runner = state(session, [5], max_new_tokens=30)
    group = [state(session, TEXT[:60], seed, sampling=SamplingConfig()) for seed in range(3)]
    scheduler.submit(runner)
    scheduler.step()
    expected = [alone(session, TEXT[:60], seed, sampling=SamplingConfig())[0] for seed in range(3)]
    read = lengths_read(monkeypatch, 1)
    scheduler.submit(*group)
    scheduler.step()
    assert scheduler.free == 0
    scheduler.cancel(group[0])
    events = {}
    while not scheduler.idle:
        for each, event in scheduler.step():
            events.setdefault(each, []).append(event)
    assert group[0] not in events
    assert sum(read) == 60 + 2 * 3
    assert [complaint(events[each])[0] for each in group[1:]] == expected[1:]


def test_a_cancelled_group_frees_its_row(session):
    scheduler = Scheduler(session, rows=2, prefill_chunk=16)
    runner = state(session, [5], max_new_tokens=30)
    scheduler.submit(runner)
    scheduler.step()
    joining = state(session, TEXT[:60])
    scheduler.submit(joining)
    scheduler.step()
    scheduler.cancel(joining)
    assert scheduler.free == 1
    other = state(session, TEXT[:40])
    scheduler.submit(other)
    events = []
    while not scheduler.idle:
        events += [event for each, event in scheduler.step() if each is other]
    assert complaint(events) == alone(session, TEXT[:40])


def test_no_logits_are_computed_of_a_piece(session, monkeypatch):
    keeps, step = [], Session.step_top_k
    monkeypatch.setattr(
        Session,
        "step_top_k",
        lambda self, ids, cache, counts, keep: keeps.append(keep) or step(self, ids, cache, counts, keep),
    )
    scheduler = Scheduler(session, rows=2, prefill_chunk=32)
    joined(scheduler, state(session, [5], max_new_tokens=4), state(session, TEXT[:60], max_new_tokens=1))
    assert keeps == [[1, 0], [1, 0], [1, 1], [1, 0]]


def test_seconds_of_all_pieces_are_those_of_the_first_token(session, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr("gpt2_runtime.generation.scheduler.perf_counter", lambda: next(clock))
    runner, joining = state(session, [5], max_new_tokens=9), state(session, TEXT[:60], max_new_tokens=1)
    scheduler = Scheduler(session, rows=2, prefill_chunk=16)
    scheduler.submit(runner)
    scheduler.step()
    scheduler.submit(joining)
    seconds = None
    while seconds is None:
        seconds = next((event.timings.first_token_seconds for each, event in scheduler.step() if each is joining), None)
    assert seconds >= 4


@given(st.integers(1, 600), st.integers(0, 300), st.booleans())
def test_a_text_is_cut_where_its_bits_stay(count, most, even):
    stops, start = [], 0
    while start < count:
        start = next_stop(start, count, most, even=even)
        stops.append(start)
    assert stops == sorted(set(stops))
    assert stops[-1] == count
    size = prefix_cache.CHUNK if count % 16 == 1 and not even else 16
    assert all(stop % size == 0 and count - stop >= 2 for stop in stops[:-1])
    for before, stop in zip([0, *stops], stops, strict=False):
        assert stop - before <= max(most, size + 1)


@pytest.mark.parametrize("chunk", [0, -1, 15, True, 1.5, "16"])
def test_a_chunk_out_of_range_is_refused(session, chunk):
    with pytest.raises(SettingError, match=r"prefill_chunk is .*, must be an integer of at least 16; None reads"):
        Scheduler(session, prefill_chunk=chunk)


def test_a_request_that_needs_more_room_than_there_is_is_refused(session):
    scheduler = Scheduler(session, capacity=20)
    with pytest.raises(SettingError, match="capacity is 20, a request needs room for 23 tokens"):
        scheduler.submit(state(session, TEXT[:20]))
    assert scheduler.idle
