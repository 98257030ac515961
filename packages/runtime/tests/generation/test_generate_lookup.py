"""Prompt-lookup decoding in the loop: the tokens are those of plain decoding, whatever is drafted."""

import numpy as np
import pytest
from gpt2_runtime import GREEDY, Finished, LookupConfig, SamplingConfig, Session, Token, generate
from gpt2_runtime.generation.prompt_lookup import DraftBudget, LookupIndex

LOOKUP = LookupConfig(max_draft_tokens=16)
SAMPLINGS = [
    GREEDY,
    SamplingConfig(),
    SamplingConfig(temperature=0.3),
    SamplingConfig(temperature=0.5, top_k=5),
    SamplingConfig(top_p=0.5),
]


def run(session, prompt, *, seed=0, stop_token_ids=(), **settings):
    """Ids, why they ended, the draws that are left, and the timings."""
    rng = np.random.default_rng(seed)
    settings = {"max_new_tokens": 1000, "sampling": GREEDY, **settings}
    *events, last = generate(session, prompt, rng=rng, stop_token_ids=stop_token_ids, **settings)
    assert [event.index for event in events] == list(range(len(events)))
    assert all(isinstance(event, Token) for event in events)
    assert isinstance(last, Finished)
    return [event.id for event in events], last.reason, rng.bit_generator.state, last.timings


def prompts(count):
    """Texts without repetition, texts of one phrase over and over, and such that begin to repeat themselves."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.integers(0, 300, size=rng.integers(1, 20)).tolist()
        yield rng.integers(0, 300, size=rng.integers(1, 6)).tolist() * 3
        phrase = rng.integers(0, 300, size=4).tolist()
        yield [*phrase, *rng.integers(0, 300, size=6).tolist(), *phrase[:3]]


@pytest.fixture
def drafting(monkeypatch):
    """Drafts this many tokens in every step but the first, whatever they cost."""

    def always(count):
        monkeypatch.setattr(DraftBudget, "draft_tokens", lambda self, most, **_: count if self.tokens else 0)

    return always


@pytest.fixture(scope="module")
def plain(serving):
    """What each prompt's greedy run without drafts comes to."""
    return [run(serving, prompt) for prompt in prompts(10)]


@pytest.mark.once
@pytest.mark.parametrize("count", range(1, 17))
def test_greedy_tokens_are_the_same_at_every_number_of_draft_tokens(serving, plain, drafting, count):
    drafting(count)
    tokens = made = right = 0
    for prompt, expected in zip(prompts(10), plain, strict=True):
        found = run(serving, prompt, lookup=LOOKUP)
        assert found[:3] == expected[:3]
        tokens, made, right = tokens + len(found[0]), made + found[3].draft_tokens, right + found[3].accepted_tokens
    assert tokens > 1000
    assert 100 < right < made


@pytest.mark.once
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_seed_draws_the_same_tokens_and_no_more(either, drafting, sampling):
    drafting(4)
    right = 0
    for seed, prompt in enumerate(prompts(4)):
        settings = {"sampling": sampling, "seed": seed}
        expected, found = run(either, prompt, **settings), run(either, prompt, lookup=LOOKUP, **settings)
        assert found[:3] == expected[:3]
        right += found[3].accepted_tokens
    assert right > 0


def test_tokens_are_the_same_however_many_drafts_seem_to_pay(serving):
    for prompt in prompts(20):
        assert run(serving, prompt, lookup=LookupConfig())[:3] == run(serving, prompt)[:3]


def test_drafts_that_are_always_wrong_change_nothing(serving, drafting, monkeypatch):
    drafting(5)
    rng = np.random.default_rng(1)
    monkeypatch.setattr(LookupIndex, "draft", lambda self, count: rng.integers(0, 300, size=count).tolist())
    for prompt in prompts(3):
        ids, reason, draws, timings = run(serving, prompt, lookup=LOOKUP)
        assert (ids, reason, draws) == run(serving, prompt)[:3]
        assert timings.accepted_tokens < timings.draft_tokens / 20


@pytest.mark.parametrize("asked", [0, 1, 2, 3, 7, 60, 64])
def test_nothing_is_drafted_beyond_what_is_requested_or_the_model_reads(serving, drafting, monkeypatch, asked):
    drafting(16)
    read, step = [], Session.step_top_k
    monkeypatch.setattr(
        Session, "step_top_k", lambda self, ids, *rest: read.append(len(ids[0])) or step(self, ids, *rest)
    )
    prompt = [5, 6, 7] * 6
    ids, *_, timings = run(serving, prompt, max_new_tokens=asked, lookup=LOOKUP)
    assert len(ids) == min(asked, 64 - len(prompt) + 1)
    wrong = timings.draft_tokens - timings.accepted_tokens
    assert sum(read) - wrong == (len(prompt) + len(ids) - 1 if ids else 0)


def test_a_stop_token_in_a_draft_ends_the_text(serving, drafting):
    drafting(8)
    for prompt in prompts(3):
        whole, *_ = run(serving, prompt)
        for stop in set(whole):
            expected = run(serving, prompt, stop_token_ids=[stop])
            found = run(serving, prompt, stop_token_ids=[stop], lookup=LOOKUP)
            assert found[:3] == expected[:3]
            assert found[3].decode_tokens == expected[3].decode_tokens


def test_timings_count_tokens_and_not_steps(serving, drafting):
    drafting(8)
    prompt = [5, 6, 7] * 6
    ids, *_, timings = run(serving, prompt, lookup=LOOKUP)
    assert timings.decode_tokens == len(ids) - 1
    assert timings.draft_tokens >= timings.accepted_tokens > 0
    plain = run(serving, prompt)[3]
    assert (plain.draft_tokens, plain.accepted_tokens) == (0, 0)
    events = list(generate(serving, prompt, max_new_tokens=30, sampling=GREEDY, stop_token_ids=(), lookup=LOOKUP))
    seconds = [event.timings.decode_seconds for event in events]
    assert seconds == sorted(seconds)
    assert [event.timings.decode_tokens for event in events] == [*range(30), 29]
