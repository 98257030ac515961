"""The search over models that tests make up, where all texts can be listed."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from beam_oracle import searched, whole
from gpt2_runtime import Beam
from gpt2_runtime.generation.beam_search import START, BeamConfig, advanced, continuations
from hypothesis import given
from hypothesis import strategies as st

V, STOP = 4, 3


def made_up(seed, tokens=V):
    """A model: the log-probability of each token after a text, which depends on all of the text."""

    def model(text):
        logits = np.random.default_rng([seed, *text]).normal(0, 1.5, tokens)
        return logits - np.log(np.exp(logits).sum())

    return model


def complaint(model, beam):
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
        total, length = complaint(model, beam)
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
