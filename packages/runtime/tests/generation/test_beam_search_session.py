"""The search of beams with a session: what the model reads, what is refused, and controls."""

from dataclasses import replace

import numpy as np
import pytest
from beam_oracle import searched, whole
from gpt2_runtime import GREEDY, Beam, Session, beam_search, generate
from gpt2_runtime.errors import EmptyPromptError, LogitsError, PromptTooLongError, SettingError, TokenIdError
from gpt2_runtime.generation.beam_search import MOST_BEAMS, BeamConfig
from gpt2_runtime.sampling.logprobs import log_softmax
from gpt2_runtime.sampling.sampler import apply_processors, sample

PROMPT = [5, 60, 7, 200]


def found(session, prompt=PROMPT, **settings):
    return beam_search(session, prompt, **{"num_beams": 3, "max_new_tokens": 8, "stop_token_ids": (), **settings})


def log_probabilities(oracle, prompt, new):
    """Of each new token, by GPT-2's equations."""
    logits = oracle([*prompt, *new])[len(prompt) - 1 : -1]
    return log_softmax(logits)[np.arange(len(new)), list(new)]


def test_the_search_is_that_of_gpt2s_equations(either, oracle):
    config = BeamConfig(num_beams=4, max_new_tokens=12)
    expected, _ = searched(lambda text: log_softmax(oracle([*PROMPT, *text])[-1:])[0], config)
    beams = found(either, num_beams=4, num_return_sequences=4, max_new_tokens=12)
    assert [beam.token_ids for beam in beams] == [beam.token_ids for beam in expected]
    np.testing.assert_allclose([beam.score for beam in beams], [beam.score for beam in expected], atol=1e-4)
    assert beams[:2] == found(either, num_beams=4, num_return_sequences=2, max_new_tokens=12)


@pytest.mark.parametrize("stops", [(), (11,), range(0, 300, 3)], ids=["none", "one", "many"])
def test_one_beam_writes_what_greedy_decoding_writes(either, oracle, stops):
    for prompt in (PROMPT, [1], [9, 9, 9]):
        *tokens, end = generate(either, prompt, max_new_tokens=30, sampling=GREEDY, stop_token_ids=stops)
        (beam,) = found(either, prompt, num_beams=1, max_new_tokens=30, stop_token_ids=stops)
        assert (list(beam.token_ids), beam.finish_reason) == ([token.id for token in tokens], end.reason)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_other_precisions_search_by_their_own_scores(folder, precision):
    session = Session.open(folder, threads=1, precision=precision)
    beams = found(session, num_return_sequences=3)
    assert len({beam.token_ids for beam in beams}) == 3
    for beam in beams:
        logits, _ = session.step([[*PROMPT, *beam.token_ids[:-1]]], session.empty_cache(), len(beam.token_ids))
        scores = log_softmax(logits[0])[np.arange(8), list(beam.token_ids)]
        assert beam.score == pytest.approx(scores.sum() / 8, abs=2e-3)


def test_the_prompt_is_read_once_and_each_token_in_one_step_of_all_beams(either, monkeypatch):
    steps, step = [], type(either).step

    def counted(self, ids, cache, logits_to_keep=1):
        steps.append(([len(row) for row in ids], logits_to_keep, cache.capacity))
        return step(self, ids, cache, logits_to_keep)

    monkeypatch.setattr(type(either), "step", counted)
    found(either, max_new_tokens=4)
    assert steps == [([4], 1, 7), ([1, 1, 1], 1, 7), ([1, 1, 1], 1, 7), ([1, 1, 1], 1, 7)]


def test_the_search_ends_where_early_stopping_says(session, monkeypatch):
    steps, step = [], type(session).step
    monkeypatch.setattr(type(session), "step", lambda *args: steps.append(1) or step(*args))
    counts = []
    for early_stopping in (True, "never"):
        steps.clear()
        found(session, max_new_tokens=60, early_stopping=early_stopping, stop_token_ids=range(0, 300, 2))
        counts.append(len(steps))
    assert counts[0] < counts[1] <= 60


@pytest.mark.parametrize(
    ("length", "asked", "given"), [(1, 100, 64), (63, 100, 2), (64, 100, 1), (60, 3, 3), (64, 0, 0), (4, 0, 0)]
)
def test_the_model_reads_its_positions_and_says_one_token_more(either, length, asked, given):
    (beam,) = found(either, [5] * length, max_new_tokens=asked)
    assert (len(beam.token_ids), beam.finish_reason) == (given, "length")


def test_nothing_requested_is_one_empty_text(session):
    nothing = (Beam(token_ids=(), score=0.0, finish_reason="length"),)
    assert found(session, max_new_tokens=0, num_return_sequences=3) == nothing


def test_the_folders_own_stop_token_is_the_default(session):
    (first,) = found(session, num_beams=1, max_new_tokens=1)
    stopping = replace(session, bundle=replace(session.bundle, eos_token_ids=(1, *first.token_ids)))
    (beam,) = found(stopping, num_beams=1, stop_token_ids=None)
    assert (beam.token_ids, beam.finish_reason) == ((), "stop")


def test_truncating_keeps_the_last_tokens_and_the_prompt_is_left_as_it_was(session):
    prompt = np.random.default_rng(0).integers(0, 299, size=100)
    before = prompt.copy()
    assert found(session, prompt, overflow="truncate") == found(session, prompt[-64:])
    np.testing.assert_array_equal(prompt, before)


@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_damaged_logits_of_any_beam_end_the_search(session, monkeypatch, damage):
    step = type(session).step

    def damaged(self, ids, cache):
        logits, cache = step(self, ids, cache)
        logits[-1, -1, 7] = damage if len(ids) > 1 else 0
        return logits, cache

    monkeypatch.setattr(type(session), "step", damaged)
    with pytest.raises(LogitsError, match=f"highest logit is {damage}"):
        found(session)


def test_prompts_are_refused_as_they_are_elsewhere(session):
    with pytest.raises(EmptyPromptError, match="prompt has 0 tokens"):
        found(session, [])
    with pytest.raises(PromptTooLongError, match="prompt has 65 tokens, the model reads 64"):
        found(session, [5] * 65)
    with pytest.raises(TokenIdError, match="token id is 300, must be from 0 to 299"):
        found(session, [5, 300])
    for overflow in ("left", "slide", None):
        with pytest.raises(SettingError, match=f"overflow is {overflow!r}, must be 'error' or 'truncate'; beam search"):
            found(session, overflow=overflow)


@pytest.mark.parametrize(
    ("name", "values", "limit"),
    [
        ("num_beams", [0, -1, 2.0, "3", None, True, MOST_BEAMS + 1], f"must be an integer from 1 to {MOST_BEAMS}"),
        ("num_return_sequences", [0, 4, 1.0, None, True], "must be an integer from 1 to 3, which is num_beams"),
        ("max_new_tokens", [-1, 1.5, "3", None, True], "must be an integer of at least 0"),
        ("length_penalty", [10.1, -10.1, np.nan, np.inf, -np.inf, None, "1", True], "must be a number from -10 to 10"),
        ("early_stopping", [1, 0, None, "always", "True"], "must be True, False or 'never'"),
    ],
)
def test_settings_out_of_range_are_refused_by_name_and_value(session, name, values, limit):
    for value in values:
        with pytest.raises(SettingError) as refusal:
            found(session, **{name: value})
        assert str(refusal.value).startswith(f"{name} is {value!r}, {limit}")


@pytest.mark.parametrize(
    ("stops", "complaint"),
    [
        ([300], "stop_token_ids has token id 300, must be from 0 to 299"),
        ([-1], "stop_token_ids has token id -1"),
        ([1.5], r"stop_token_ids is \[1.5\], must be a list of integers"),
        (["a"], r"stop_token_ids is \['a'\], must be a list of integers"),
        (5, "stop_token_ids is 5, must be a list of integers"),
        ([[5]], r"stop_token_ids is \[\[5\]\], must be a list of integers"),
    ],
)
def test_stop_tokens_that_are_none_are_refused(session, stops, complaint):
    with pytest.raises(SettingError, match=complaint):
        found(session, stop_token_ids=stops)
    with pytest.raises(SettingError, match=complaint):
        list(generate(session, PROMPT, max_new_tokens=2, stop_token_ids=stops))


CONTROLLED = [
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6},
    {"frequency_penalty": 2.0, "presence_penalty": 1.0},
    {"no_repeat_ngram_size": 1},
    {"logit_bias": {7: 4.0, 9: -2.0, 60: 5.0}},
    {"bad_words_ids": [[token] for token in range(0, 300, 2)]},
    {"min_new_tokens": 5},
]


@pytest.mark.parametrize("controls", CONTROLLED, ids=lambda controls: " ".join(controls))
def test_controls_change_the_scores_of_the_tokens(session, oracle, controls):
    sampling = replace(GREEDY, **controls)
    stops = frozenset(range(1, 300, 3)) if "min_new_tokens" in controls else frozenset()
    settings = {"num_return_sequences": 3, "max_new_tokens": 12, "early_stopping": True, "stop_token_ids": stops}
    beams = found(session, sampling=sampling, **settings)
    assert beams != found(session, **settings)
    for beam in beams:
        assert len(beam.token_ids) >= sampling.min_new_tokens
        text, total = whole(beam), 0.0
        for place, token in enumerate(text):
            plain = log_softmax(oracle([*PROMPT, *text[:place]])[-1:])[0]
            left = apply_processors(plain, sampling, prompt_ids=PROMPT, new_ids=text[:place], stop_token_ids=stops)
            total += left[token]
        assert beam.score == pytest.approx(total / len(text), abs=1e-4)


@pytest.mark.parametrize("controls", CONTROLLED, ids=lambda controls: " ".join(controls))
def test_one_beam_is_greedy_with_controls_too(session, controls):
    """Which are of logits then."""
    sampling, stops, rng = replace(GREEDY, **controls), range(0, 300, 7), np.random.default_rng(0)
    (beam,) = found(session, sampling=sampling, num_beams=1, max_new_tokens=12, stop_token_ids=stops)
    new, (logits, cache) = [], session.step([PROMPT], session.empty_cache())
    while len(new) < 12:
        token = sample(logits[0, -1], sampling, rng, prompt_ids=PROMPT, new_ids=new, stop_token_ids=stops)
        if token in stops:
            break
        new.append(token)
        logits, cache = session.step([[token]], cache)
    assert list(beam.token_ids) == new


@pytest.mark.parametrize("num_beams", [1, 3])
def test_controls_that_leave_no_token_are_refused_unless_a_text_has_ended(session, num_beams):
    nothing = replace(GREEDY, no_repeat_ngram_size=1, bad_words_ids=[[id_] for id_ in range(300) if id_ not in (1, 2)])
    with pytest.raises(SettingError) as refusal:
        found(session, sampling=nothing, num_beams=num_beams)
    complaint = (
        "after 2 new tokens all are forbidden, at least one must be left; loosen no_repeat_ngram_size, bad_words_ids"
    )
    assert str(refusal.value) == complaint
    (beam, *_) = found(session, sampling=nothing, num_beams=num_beams, stop_token_ids=[1, 2])
    assert beam.finish_reason == "stop"


def test_a_control_of_a_token_that_the_vocabulary_lacks_is_refused(session):
    with pytest.raises(SettingError, match="logit_bias has token id 300, must be below 300"):
        found(session, sampling=replace(GREEDY, logit_bias={300: 1.0}))


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 1.0), ("top_k", 5), ("top_p", 0.5), ("min_p", 0.1), ("typical_p", 0.9)]
)
def test_what_needs_a_draw_is_refused_by_name(session, name, value):
    neutral = getattr(GREEDY, name)
    with pytest.raises(SettingError) as refusal:
        found(session, sampling=replace(GREEDY, **{name: value}))
    assert str(refusal.value) == (
        f"{name} is {value}, must be {neutral!r}, as beam search draws no token; start from GREEDY"
    )
