"""A window that is full and moves on, log-probabilities, and a request's numbers, by the independent network."""

import ast
from pathlib import Path

import numpy as np
import pytest
from gpt2_runtime import GREEDY, Finished, LookupConfig, SamplingConfig, generate, generation
from gpt2_runtime.errors import LogitsError, PromptTooLongError, SettingError
from gpt2_runtime.generation.request import Request
from gpt2_runtime.generation.request_state import RequestState
from gpt2_runtime.sampling.logprobs import likeliest, log_softmax

LIMIT = 64  # n_positions of the folder
PROMPT = [5, 60, 7, 200]


def run(session, prompt=PROMPT, **settings):
    *events, last = generate(session, prompt, **{"sampling": GREEDY, "stop_token_ids": (), **settings})
    assert isinstance(last, Finished)
    return events, last


def slid(oracle, prompt, count):
    """The greedy tokens after a prompt whose full window goes on from its last half."""
    window, new = list(prompt)[-LIMIT:], []
    while len(new) < count:
        if len(window) > LIMIT:
            window = window[-LIMIT // 2 :]
        new.append(int(oracle(window)[-1].argmax()))
        window.append(new[-1])
    return new


@pytest.mark.parametrize("length", [1, 4, 63, 64, 100])
def test_a_full_window_goes_on_from_its_last_half(serving, portable, oracle, length):
    prompt = np.random.default_rng(length).integers(0, 299, size=length).tolist()
    expected = slid(oracle, prompt, 110)
    # The first slide is when a window of LIMIT tokens is to be read with one more; each later one after half a window.
    beyond = min(length, LIMIT) + 110 - 1 - LIMIT
    slides = 1 + (beyond - 1) // (LIMIT - LIMIT // 2 + 1) if beyond > 0 else 0
    for session in (serving, portable):
        events, last = run(session, prompt, max_new_tokens=110, overflow="slide")
        assert [event.id for event in events] == expected
        assert (last.reason, last.truncated, last.slides) == ("length", max(0, length - LIMIT), slides)


def test_sliding_changes_nothing_of_a_text_that_fits(either):
    plain, slide = (run(either, max_new_tokens=61, overflow=overflow) for overflow in ("error", "slide"))
    assert [event.id for event in plain[0]] == [event.id for event in slide[0]]
    assert slide[1].slides == 0


@pytest.mark.parametrize("sampling", [GREEDY, SamplingConfig(temperature=0.5)])
def test_drafts_change_nothing_of_a_text_that_slides(session, sampling):
    texts = []
    for lookup in (None, LookupConfig(max_draft_tokens=16)):
        settings = {"max_new_tokens": 200, "overflow": "slide", "rng": np.random.default_rng(1)}
        events, last = run(session, sampling=sampling, lookup=lookup, **settings)
        texts.append(([event.id for event in events], last.slides))
    assert texts[0] == texts[1]
    assert last.timings.draft_tokens > 0


@pytest.mark.parametrize(("overflow", "kept"), [("truncate", 64), ("slide", 64)])
def test_the_end_reports_how_much_of_the_prompt_was_left_out(session, overflow, kept):
    _, last = run(session, [5] * 100, max_new_tokens=0, overflow=overflow)
    assert (last.truncated, last.slides) == (100 - kept, 0)


def test_logprobs_are_the_models_own_whatever_the_settings(either, oracle):
    settings = {"sampling": SamplingConfig(temperature=2.0, top_k=5), "rng": np.random.default_rng(3)}
    events, _ = run(either, max_new_tokens=12, logprobs=3, **settings)
    read = list(PROMPT)
    for event in events:
        expected = log_softmax(oracle(read)[-1])
        assert event.logprob == pytest.approx(expected[event.id], abs=1e-4)
        ids = [id_ for id_, _ in event.top_logprobs]
        assert ids == np.argsort(-expected, kind="stable")[:3].tolist()
        assert [value for _, value in event.top_logprobs] == pytest.approx(expected[ids], abs=1e-4)
        read.append(event.id)


def test_logprobs_of_drafts_that_came_true_are_those_of_plain_decoding(session):
    plain, _ = run(session, max_new_tokens=5, logprobs=2)
    draft = [event.id for event in plain[:4]]
    request = Request(prompt_ids=PROMPT, max_new_tokens=5, sampling=GREEDY, stop_token_ids=frozenset(), logprobs=2)
    state = RequestState(session, request, np.random.default_rng())
    logits, _ = session.step([state.next_read() + draft], session.empty_cache(), 5)
    events = state.append(state.choose(logits[0], draft), seconds=1.0, drafted=4)
    assert state.finished == "length"
    for a, b in zip(plain, events[:-1], strict=True):
        assert (a.id, a.index, [id_ for id_, _ in a.top_logprobs]) == (
            b.id,
            b.index,
            [id_ for id_, _ in b.top_logprobs],
        )
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)


def test_without_asking_no_logprob_is_reported(session):
    events, _ = run(session, max_new_tokens=2)
    assert [(event.logprob, event.top_logprobs) for event in events] == [(None, ())] * 2


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"logprobs": -1}, "logprobs is -1, must be an integer from 0 to 100; leave it out for none"),
        ({"logprobs": 101}, "logprobs is 101, must be an integer from 0 to 100; leave it out for none"),
        ({"logprobs": True}, "logprobs is True"),
        ({"overflow": "left"}, "overflow is 'left', must be 'error', 'truncate' or 'slide'"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1, must be an integer of at least 0"),
    ],
)
def test_a_request_is_refused_by_name(setting, complaint):
    with pytest.raises(SettingError, match=complaint):
        Request(**{"prompt_ids": [1], "max_new_tokens": 1, **setting})


def test_a_state_knows_what_it_needs_of_a_cache(session):
    def of(length, **settings):
        return RequestState(session, Request(prompt_ids=[5] * length, **settings), np.random.default_rng())

    assert of(4, max_new_tokens=1).capacity == 4
    assert of(4, max_new_tokens=1000).capacity == LIMIT
    assert of(100, max_new_tokens=10, overflow="slide").capacity == LIMIT
    with pytest.raises(PromptTooLongError):
        of(65, max_new_tokens=1)


def test_nothing_else_sets_the_attributes_of_a_state():
    names = {"ids", "num_cached", "finished", "failed", "truncated", "slides", "reused"}
    for path in Path(generation.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in names:
                assert ast.unparse(node.value) == "self", f"{path.name}:{node.lineno}"


def test_log_softmax_is_exact_and_refuses_what_is_no_number():
    logits = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32) * 30
    probabilities = np.exp(logits.astype(np.float64))
    expected = np.log(probabilities / probabilities.sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(log_softmax(logits), expected, atol=1e-12)
    for wrong in (np.nan, np.inf):
        with pytest.raises(LogitsError, match="highest logit"):
            log_softmax(np.array([0, wrong], dtype=np.float32))


def test_the_likeliest_are_in_order_and_the_lower_id_comes_first_of_equals():
    logprobs = np.array([-2.0, -1.0, -2.0, -1.0])
    assert [id_ for id_, _ in likeliest(logprobs, 3)] == [1, 3, 0]
    assert [id_ for id_, _ in likeliest(logprobs, 9)] == [1, 3, 0, 2]
    assert likeliest(logprobs, 0) == ()
