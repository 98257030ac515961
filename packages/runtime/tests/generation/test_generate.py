from dataclasses import replace

import numpy as np
import pytest
from gpt2_runtime import GREEDY, Finished, SamplingConfig, Token, generate
from gpt2_runtime.errors import EmptyPromptError, PromptError, PromptTooLongError, SettingError, TokenIdError
from gpt2_runtime.generation.events import Timings

PROMPT = [5, 60, 7, 200]


def run(session, prompt=PROMPT, **settings):
    """The ids and the reason of a generation without stop tokens, unless it says otherwise."""
    events = list(generate(session, prompt, **{"sampling": GREEDY, "stop_token_ids": (), **settings}))
    assert [event.index for event in events[:-1]] == list(range(len(events) - 1))
    assert all(isinstance(event, Token) for event in events[:-1])
    assert isinstance(events[-1], Finished)
    return [event.id for event in events[:-1]], events[-1].reason


def test_greedy_tokens_are_the_likeliest_of_gpt2s_equations(either, oracle):
    ids, reason = run(either, max_new_tokens=30)
    read = list(PROMPT)
    for token in ids:
        assert token == oracle(read)[-1].argmax()
        read.append(token)
    assert (len(ids), reason) == (30, "length")


@pytest.mark.parametrize(
    ("length", "asked", "given"), [(1, 100, 64), (63, 100, 2), (64, 100, 1), (60, 3, 3), (64, 0, 0)]
)
def test_the_model_reads_its_positions_and_says_one_token_more(either, length, asked, given):
    ids, reason = run(either, [5] * length, max_new_tokens=asked)
    assert (len(ids), reason) == (given, "length")


def test_a_prompt_too_long_names_both_numbers_and_the_remedy(session):
    with pytest.raises(PromptTooLongError) as refusal:
        generate(session, [5] * 65, max_new_tokens=1)
    assert str(refusal.value) == "prompt has 65 tokens, the model reads 64; shorten it or pass overflow='truncate'"


def test_truncating_keeps_the_last_tokens(session):
    prompt = np.random.default_rng(0).integers(0, 299, size=100)
    assert run(session, prompt, max_new_tokens=9, overflow="truncate") == run(session, prompt[-64:], max_new_tokens=9)


def test_an_empty_prompt_is_refused_with_the_token_to_start_from(session):
    with pytest.raises(EmptyPromptError, match=r"prompt has 0 tokens, .* start from the end-of-text token, id 299"):
        generate(session, [], max_new_tokens=1)


def test_a_stop_token_ends_the_text_and_is_not_part_of_it(session):
    ids, _ = run(session, max_new_tokens=30)
    first = ids.index(ids[-1])
    assert run(session, max_new_tokens=30, stop_token_ids=[ids[-1]]) == (ids[:first], "stop")


def test_the_folders_own_stop_token_is_the_default(session):
    (first,), _ = run(session, max_new_tokens=1)
    stopping = replace(session, bundle=replace(session.bundle, eos_token_ids=(1, first)))
    assert run(stopping, max_new_tokens=3, stop_token_ids=None) == ([], "stop")


def test_one_generator_state_gives_one_text(session):
    settings = {"max_new_tokens": 40, "sampling": SamplingConfig(temperature=2.0)}
    first, second, other = (run(session, rng=np.random.default_rng(seed), **settings) for seed in (1, 1, 2))
    assert first == second != other


def test_each_token_costs_one_step_of_one_position(session, monkeypatch):
    steps, step = [], type(session).step_top_k

    def counted(self, ids, cache, counts, logits_to_keep):
        steps.append(([len(row) for row in ids], logits_to_keep))
        return step(self, ids, cache, counts, logits_to_keep)

    monkeypatch.setattr(type(session), "step_top_k", counted)
    run(session, max_new_tokens=5)
    assert steps == [([4], [1]), *4 * [([1], [1])]]


@pytest.mark.parametrize(("asked", "room"), [(1, 4), (5, 8), (1000, 64)])
def test_the_cache_has_room_for_what_the_request_can_need(session, monkeypatch, asked, room):
    rooms = []
    empty = type(session).empty_cache
    monkeypatch.setattr(
        type(session),
        "empty_cache",
        lambda self, rows, *, capacity: rooms.append(capacity) or empty(self, rows, capacity=capacity),
    )
    run(session, max_new_tokens=asked)
    assert rooms == [room]


@pytest.mark.parametrize("value", [-1, 1.5, "3", None, True])
def test_a_number_of_tokens_out_of_range_is_refused(session, value):
    with pytest.raises(SettingError, match="max_new_tokens is"):
        generate(session, PROMPT, max_new_tokens=value)


def test_what_is_wrong_is_refused_at_the_call_and_not_at_the_first_event(session):
    with pytest.raises(TokenIdError, match="token id is 300, must be from 0 to 299"):
        generate(session, [5, 300], max_new_tokens=0)
    with pytest.raises(SettingError, match="overflow is 'left', must be 'error', 'truncate' or 'slide'"):
        generate(session, PROMPT, max_new_tokens=1, overflow="left")
    with pytest.raises(PromptError, match="prompt_ids is 'text', must be a list of token ids"):
        generate(session, "text", max_new_tokens=1)
    with pytest.raises(SettingError, match="lookup is True, must be a LookupConfig"):
        generate(session, PROMPT, max_new_tokens=1, lookup=True)
    with pytest.raises(SettingError, match="prefixes is 100, must be a PrefixCache"):
        generate(session, PROMPT, max_new_tokens=1, prefixes=100)
    with pytest.raises(SettingError, match="rng is 0, must be a numpy Generator"):
        generate(session, PROMPT, max_new_tokens=1, rng=0)
    with pytest.raises(SettingError, match=r"sampling is 0\.8, must be a SamplingConfig"):
        generate(session, PROMPT, max_new_tokens=1, sampling=0.8)


def test_the_prompt_is_left_as_it_was(session):
    prompt = list(PROMPT)
    run(session, prompt, max_new_tokens=3)
    assert prompt == PROMPT


def test_timings_separate_the_first_token_from_the_others(session):
    *_, finished = generate(session, PROMPT, max_new_tokens=4, stop_token_ids=())
    assert finished.timings.decode_tokens == 3
    assert 0 < finished.timings.first_token_seconds < 10
    assert finished.timings.tokens_per_second == 3 / finished.timings.decode_seconds
    (nothing,) = generate(session, PROMPT, max_new_tokens=0)
    assert nothing.timings == Timings()
    assert nothing.timings.tokens_per_second is None
