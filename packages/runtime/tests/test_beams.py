"""The search over models that tests make up, where all texts can be told; then the loop with a session."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from gpt2_runtime import GREEDY, Beam, Session, beam_search, generate
from gpt2_runtime.beams import MOST_BEAMS, START, BeamConfig, advanced, continuations, over
from gpt2_runtime.errors import EmptyPromptError, LogitsError, PromptTooLongError, SettingError, TokenIdError
from gpt2_runtime.logprobs import log_softmax
from gpt2_runtime.sampling import controlled, sample
from hypothesis import given
from hypothesis import strategies as st

PROMPT = [5, 60, 7, 200]
V, STOP = 4, 3


def made_up(seed, tokens=V):
    """A model: the log-probability of each token after a text, which depends on all of the text."""

    def model(text):
        logits = np.random.default_rng([seed, *text]).normal(0, 1.5, tokens)
        return logits - np.log(np.exp(logits).sum())

    return model


def searched(model, config, ends=over):
    """The texts found, and after how many steps."""
    search = START
    while not search.token_ids.shape[1] or not ends(search, config):
        search = advanced(search, np.array([model(text) for text in search.token_ids.tolist()]), config)
    return search.finished, search.token_ids.shape[1]


def whole(beam):
    """A text with its stop token."""
    return beam.token_ids if beam.stop_token_id is None else (*beam.token_ids, beam.stop_token_id)


def told(model, beam):
    """The score of a beam by its definition, without the penalty: its log-probability, and its length."""
    text = whole(beam)
    return sum(model(text[:place])[token] for place, token in enumerate(text)), len(text)


CONFIGS = st.builds(
    BeamConfig,
    num_beams=st.integers(1, 5),
    max_new_tokens=st.integers(1, 6),
    length_penalty=st.sampled_from([-1, -0.5, 0, 0.6, 1.0, 2]),
    early_stopping=st.sampled_from([False, True, "never"]),
    stop_token_ids=st.sampled_from([frozenset(), frozenset({STOP}), frozenset({0, STOP})]),
)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.6, 2.0])
@pytest.mark.parametrize("stops", [frozenset(), frozenset({STOP})])
def test_with_a_beam_for_each_text_all_texts_are_found_in_order(stops, length_penalty, early_stopping):
    model, longest = made_up(1), 4
    config = BeamConfig(
        num_beams=V**longest + 1,
        max_new_tokens=longest,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        stop_token_ids=stops,
    )
    texts = []
    for length in range(1, longest + 1):
        for text in product(range(V), repeat=length):
            stopped = text[-1] in stops
            if (stopped or length == longest) and not stops.intersection(text[:-1]):
                total = sum(model(text[:place])[token] for place, token in enumerate(text))
                reason = "stop" if stopped else "length"
                texts.append((total / length**length_penalty, text[:-1] if stopped else text, reason))
    texts.sort(reverse=True)
    found, steps = searched(model, config)
    assert steps == longest
    assert [(beam.token_ids, beam.finish_reason) for beam in found] == [text[1:] for text in texts]
    np.testing.assert_allclose([beam.score for beam in found], [text[0] for text in texts], rtol=1e-12)


@given(seed=st.integers(0, 10**6), config=CONFIGS)
def test_whatever_is_found_is_a_text_once_with_its_own_score_best_first(seed, config):
    model = made_up(seed)
    found, _ = searched(model, config)
    assert 1 <= len(found) <= config.num_beams
    assert sorted(found, key=lambda beam: -beam.score) == list(found)
    assert len({whole(beam) for beam in found}) == len(found)
    for beam in found:
        assert not config.stop_token_ids.intersection(beam.token_ids)
        total, length = told(model, beam)
        assert beam.finish_reason == ("length" if beam.stop_token_id is None else "stop")
        assert beam.finish_reason == "stop" or length == config.max_new_tokens
        assert beam.score == pytest.approx(total / length**config.length_penalty, rel=1e-12)


@given(seed=st.integers(0, 10**6), config=CONFIGS)
def test_never_misses_nothing_of_a_search_to_the_end(seed, config):
    config = replace(config, num_beams=max(2, config.num_beams), early_stopping="never")
    to_the_end, _ = searched(made_up(seed), config, ends=lambda search, config: not len(search.rows))
    assert searched(made_up(seed), config)[0] == to_the_end


@given(seed=st.integers(0, 10**6), config=CONFIGS)
def test_each_kind_of_early_stopping_ends_no_later_than_the_next(seed, config):
    steps = [
        searched(made_up(seed), replace(config, early_stopping=early_stopping))[1]
        for early_stopping in (True, False, "never")
    ]
    assert steps == sorted(steps)


@given(seed=st.integers(0, 10**6), config=CONFIGS)
def test_one_beam_is_greedy(seed, config):
    model, text = made_up(seed), []
    while len(text) < config.max_new_tokens and not config.stop_token_ids.intersection(text):
        text.append(int(model(text).argmax()))
    (beam,), _ = searched(model, replace(config, num_beams=1))
    assert list(beam.token_ids) == [token for token in text if token not in config.stop_token_ids]


def test_a_tree_by_hand():
    """After nothing: a 0.5, b 0.4, stop 0.1. After b: c is nearly sure; after all else, all four are alike."""
    after = {(): [0.5, 0.4, 1e-9, 0.1], (1,): [0.02, 0.02, 0.95, 0.01]}

    def by(num_beams, max_new_tokens):
        config = BeamConfig(
            num_beams=num_beams, max_new_tokens=max_new_tokens, length_penalty=0.0, stop_token_ids=frozenset({STOP})
        )
        found, _ = searched(lambda text: np.log(after.get(tuple(text), [0.25] * 4)), config)
        return [(beam.token_ids, beam.finish_reason, round(np.exp(beam.score), 3)) for beam in found]

    # Two beams: the stop token, third after nothing, ends no text. Of those after a the lowest id goes first.
    assert by(2, 2) == [((1, 2), "length", 0.38), ((0, 0), "length", 0.125)]
    # Three: it ends one, which two better ones leave behind.
    assert by(3, 1) == [((0,), "length", 0.5), ((1,), "length", 0.4), ((), "stop", 0.1)]
    assert by(3, 2) == [((1, 2), "length", 0.38), ((0, 0), "length", 0.125), ((0, 1), "length", 0.125)]


def test_a_penalty_is_of_the_new_tokens_with_the_stop_token():
    config = BeamConfig(num_beams=1, max_new_tokens=9, length_penalty=2.0, stop_token_ids=frozenset({STOP}))
    after = {(): [0.4, 0.2, 0.2, 0.2], (0,): [0.1, 0.1, 0.1, 0.7]}
    (beam,), _ = searched(lambda text: np.log(after[tuple(text)]), config)
    assert beam == Beam(
        token_ids=(0,), score=pytest.approx(np.log(0.4 * 0.7) / 2**2), finish_reason="stop", stop_token_id=STOP
    )


def test_where_few_texts_are_possible_there_are_few_beams_and_none_twice():
    config = BeamConfig(num_beams=8, max_new_tokens=3, stop_token_ids=frozenset({STOP}))
    found, steps = searched(lambda text: np.array([-0.1, -np.inf, -np.inf, -3.0]), config)
    assert [beam.token_ids for beam in found] == [(0, 0, 0), (0, 0), (0,), ()]
    assert steps == 3
    nothing = advanced(START, np.full((1, V), -np.inf), BeamConfig(num_beams=2, max_new_tokens=3))
    assert (len(nothing.rows), nothing.finished) == (0, ())


def test_stop_tokens_do_not_take_the_places_of_those_that_go_on():
    """However many there are, and all of them likelier."""
    config = BeamConfig(num_beams=3, max_new_tokens=2, stop_token_ids=frozenset(range(6)))
    search = advanced(START, -np.arange(12.0)[None] - 1, config)
    assert search.token_ids.tolist() == [[6], [7], [8]]


@given(st.data())
def test_the_likeliest_continuations_are_those_of_a_sort(data):
    R, T, count = (data.draw(st.integers(1, most)) for most in (4, 6, 30))
    scores = np.array(data.draw(st.lists(st.sampled_from([-np.inf, *range(-9, 0)]), min_size=R * T, max_size=R * T)))
    scores, before = scores.reshape(R, T), -np.arange(R, dtype=float) / 3
    rows, tokens, sums = continuations(scores, before, count)
    every = np.sort((before[:, None] + scores).ravel())[::-1]
    np.testing.assert_array_equal(sums, every[: min(count, np.isfinite(every).sum())])
    np.testing.assert_array_equal(sums, (before[:, None] + scores)[rows, tokens])
    assert len(set(zip(rows.tolist(), tokens.tolist(), strict=True))) == len(rows)


# With a session.


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


def test_nothing_asked_for_is_one_empty_text(session):
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
        with pytest.raises(
            SettingError, match=f"overflow is {overflow!r}, must be 'error' or 'truncate' for beam search"
        ):
            found(session, overflow=overflow)


@pytest.mark.parametrize(
    ("name", "values", "limit"),
    [
        ("num_beams", [0, -1, 2.0, "3", None, True, MOST_BEAMS + 1], f"must be an integer from 1 to {MOST_BEAMS}"),
        ("num_return_sequences", [0, 4, 1.0, None, True], "must be an integer from 1 to num_beams, which is 3"),
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
    ("stops", "told"),
    [
        ([300], "token id is 300"),
        ([-1], "token id is -1"),
        ([1.5], r"stop_token_ids is \[1.5\], must be a list of integers"),
        (["a"], r"stop_token_ids is \['a'\], must be a list of integers"),
        (5, "stop_token_ids is 5, must be a list of integers"),
        ([[5]], r"stop_token_ids is \[\[5\]\], must be a list of integers"),
    ],
)
def test_stop_tokens_that_are_none_are_refused(session, stops, told):
    with pytest.raises((SettingError, TokenIdError), match=told):
        found(session, stop_token_ids=stops)


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
            left = controlled(plain, sampling, prompt_ids=PROMPT, new_ids=text[:place], stop_token_ids=stops)
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
    told = "after 2 new tokens all are forbidden, at least one must be left; loosen no_repeat_ngram_size, bad_words_ids"
    assert str(refusal.value) == told
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
