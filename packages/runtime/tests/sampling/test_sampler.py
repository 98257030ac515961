"""Exact sets and probabilities, against definitions written out here and stored figures from transformers."""

import math

import numpy as np
import pytest
from gpt2_runtime import GREEDY, SamplingConfig
from gpt2_runtime.errors import LogitsError, SettingError
from gpt2_runtime.sampling.filters import EVERY, FEW, apply_temperature, keep_top_k, keep_top_p, probabilities
from gpt2_runtime.sampling.sampler import candidates, sample
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

# In steps of 1/8, which are exact in every operation here and tie often.
LOGITS = arrays.arrays(np.float32, st.integers(1, 40), elements=st.integers(-200, 200).map(lambda n: n / 8))


def distribution(logits, **settings):
    """The probability of each of the V tokens."""
    left = candidates(np.asarray(logits, dtype=np.float32), SamplingConfig(**settings))
    full = np.zeros(len(logits))
    full[left.ids] = probabilities(left)
    return full


@given(LOGITS, st.floats(0.05, 20))
def test_temperature_divides_the_logits(logits, temperature):
    powers = np.exp(logits.astype(np.float64) / temperature - (logits / temperature).max())
    np.testing.assert_allclose(
        distribution(logits, temperature=temperature), powers / powers.sum(), rtol=1e-5, atol=1e-300
    )


@given(LOGITS, st.integers(1, 50))
def test_top_k_keeps_k_and_any_ties_with_the_last(logits, k):
    kth = sorted(logits, reverse=True)[min(k, len(logits)) - 1]
    assert set(keep_top_k(apply_temperature(logits, 1.0), k).ids) == set(np.flatnonzero(logits >= kth))


@given(LOGITS, st.floats(0.01, 1))
def test_top_p_keeps_the_smallest_set_with_enough_mass(logits, p):
    left = apply_temperature(logits, 1.0)
    everything = probabilities(left)
    kept = keep_top_p(left, p)
    mass = everything[kept.ids].sum()
    least = everything[kept.ids].min()
    assert mass >= p - 1e-9
    assert mass - least < p + 1e-9 or len(kept.ids) == 1  # without its least likely token it would be too little
    assert all(everything[i] <= least for i in set(left.ids) - set(kept.ids))


@given(LOGITS, st.floats(0.1, 3), st.integers(1, 40), st.floats(0.1, 1))
def test_the_order_is_temperature_then_top_k_then_top_p(logits, temperature, k, p):
    expected = keep_top_p(keep_top_k(apply_temperature(logits, temperature), k), p)
    actual = candidates(logits, SamplingConfig(temperature=temperature, top_k=k, top_p=p))
    np.testing.assert_array_equal(actual.ids, expected.ids)


class Number:
    """A random generator that always returns one number."""

    def __init__(self, number):
        self.number = number

    def random(self):
        return self.number


def plainly(logits, *, temperature=1.0, top_k=None, top_p=None):
    """The definition, in float64 with sorting: ids kept, their probabilities; for top-p the sum and weight of each.

    A weight is relative to the lowest weight kept.
    """
    ids, logits = np.arange(len(logits)), np.asarray(logits, dtype=np.float64)
    if top_k is not None:
        ids = np.flatnonzero(logits >= np.sort(logits)[-min(top_k, len(logits))])
    powers = np.exp((logits[ids] - logits.max()) / temperature)
    likely = powers / powers.sum()
    if top_p is None:
        return ids, likely, {}
    ascending = np.argsort(likely, kind="stable")
    cumulative = np.cumsum(likely[ascending])
    removed = cumulative <= 1 - top_p
    removed[-1] = False
    stays = np.sort(ascending[~removed])
    weights = likely / likely[stays].min()
    sums = dict(zip(ids[ascending], zip(cumulative, weights[ascending], strict=True), strict=True))
    return ids[stays], likely[stays] / likely[stays].sum(), sums


def text_like(rng, size):
    """A head, and a tail that falls off as word frequencies do."""
    return -1.2 * np.log(rng.permutation(size) + 1) + rng.normal(0, 0.7, size) - 40


def with_holes(rng, size):
    holes = rng.random(size) < 0.9
    holes[rng.integers(size)] = False
    return np.where(holes, -np.inf, rng.normal(0, 2, size))


def one_finite(rng, size):
    logits = np.full(size, -np.inf)
    logits[rng.integers(size)] = -3
    return logits


SHAPES = {
    "text-like": text_like,
    "normal": lambda rng, size: rng.normal(0, 2, size),
    "sorted": lambda rng, size: np.sort(rng.normal(0, 2, size)),
    "sorted down": lambda rng, size: -np.sort(rng.normal(0, 2, size)),
    "different where sampled": lambda rng, size: rng.normal(0, 1, size) - 4.0 * (np.arange(size) % EVERY == 0),
    "peaked": lambda rng, size: rng.normal(0, 30, size),
    "spread": lambda rng, size: rng.uniform(-300, 0, size),
    "ties": lambda rng, size: rng.integers(-8, 9, size) / 4,
    "two values": lambda rng, size: rng.integers(0, 2, size) * 5.0,
    "all equal": lambda rng, size: np.zeros(size),
    "with holes": with_holes,
    "one finite": one_finite,
    "one above": lambda rng, size: np.where(np.arange(size) == rng.integers(size), 20.0, rng.normal(0, 1, size)),
}
EVERY_SETTING = [
    {},
    {"temperature": 0.7},
    {"temperature": 0.05},
    {"top_k": 1},
    {"top_k": 50},
    {"top_k": 1000, "temperature": 1.5},
    {"top_k": 10_000},
    {"top_k": 40_000},
    {"top_k": 30_000, "top_p": 0.61},
    {"top_p": 0.9},
    {"top_p": 0.3, "temperature": 0.1},
    {"top_p": 0.99, "temperature": 2.0},
    {"top_p": 1e-9},
    {"top_k": 50, "top_p": 0.9, "temperature": 0.8},
    {"top_k": 5000, "top_p": 0.95, "temperature": 1.5},
]


@pytest.mark.once
@pytest.mark.parametrize("size", [1, 2, 700, FEW + 1, 5003, 50257])
@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_kept_and_drawn_match_the_plain_definition(shape, size):
    rng = np.random.default_rng(size)
    for settings in EVERY_SETTING:
        logits = SHAPES[shape](rng, size).astype(np.float32)
        ids, likely, sums = plainly(logits, **settings)
        left = candidates(logits, SamplingConfig(**settings))
        near = 1e-12 if left.weights.dtype == np.float64 else 1e-6
        kept = set(left.ids[left.weights > 0])
        differing = kept ^ set(ids[likely > 1e-37])
        wrong = differing - set(ids[likely <= 1e-37])
        at_border = {id_ for id_ in wrong if abs(sums[id_][0] - (1 - settings["top_p"])) < near}
        # Others may swap with one that float32 cannot distinguish from them: as many are added as dropped.
        others = wrong - at_border
        assert all(abs(sums[id_][1] - 1) < 10 * near for id_ in others), settings
        assert abs(len(others & kept) - len(others - kept)) <= len(at_border), settings
        # One that differs shifts all that come after it.
        slack = 3 * near + sum(sums[id_][1] * likely.min() for id_ in differing if id_ in sums)
        ends = np.cumsum(likely)
        for number in (0.0, 1 - 2**-53, *rng.random(20)):
            drawn = sample(logits, SamplingConfig(**settings), Number(number))
            assert logits[drawn] > -math.inf
            if drawn not in differing:
                place = np.searchsorted(ids, drawn)
                assert ends[place] - likely[place] - slack < number < ends[place] + slack, settings


# From transformers 5.23.0: TemperatureLogitsWarper, TopKLogitsWarper and TopPLogitsWarper in turn, then softmax.
TRANSFORMERS = [
    (
        [-0.4, -0.58, 0.63, 0.15, 0.31, -0.43, 0.17, 0.63, -1.37, -0.39],
        {"temperature": 2.0, "top_k": None, "top_p": 0.9},
        [0.08830953, 0.08070884, 0.1477982, 0.1162622, 0.1259453, 0.08699477, 0.1174307, 0.1477982, 0.0, 0.08875219],
    ),
    (
        [0.3, -1.59, -0.14, 0.75, 0.23, -0.05, -0.7, -0.14, -0.28, 0.85],
        {"temperature": 0.8, "top_k": 5, "top_p": None},
        [0.1585877, 0.0, 0.0, 0.2783301, 0.145301, 0.1023919, 0.0, 0.0, 0.0, 0.3153893],
    ),
    (
        [-0.57, -0.62, -0.0, -1.24, -0.82, -0.18, 0.19, -0.0, -0.38, -0.06],
        {"temperature": 1.3, "top_k": 6, "top_p": 0.7},
        [0.0, 0.0, 0.2431747, 0.0, 0.0, 0.0, 0.2814442, 0.2431747, 0.0, 0.2322064],
    ),
    (
        [0.3, 1.17, 0.14, -0.2, 0.38, 1.56, -1.01, 0.14, 0.77, -0.29],
        {"temperature": 0.5, "top_k": 3, "top_p": 0.95},
        [0.0, 0.2754213, 0.0, 0.0, 0.0, 0.6008239, 0.0, 0.0, 0.1237548, 0.0],
    ),
]


@pytest.mark.parametrize(("logits", "settings", "expected"), TRANSFORMERS)
def test_the_distribution_matches_transformers(logits, settings, expected):
    np.testing.assert_allclose(distribution(logits, **settings), expected, atol=1e-6)


def test_top_p_at_a_high_temperature_keeps_the_tokens_of_the_flat_distribution():
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    assert np.count_nonzero(distribution(logits, temperature=1.0, top_p=0.9)) == 3
    assert np.count_nonzero(distribution(logits, temperature=2.0, top_p=0.9)) == 4


def test_ties_at_the_border_of_top_p_go_to_the_higher_id_as_in_transformers():
    left = apply_temperature(np.zeros(4, dtype=np.float32), 1.0)
    np.testing.assert_array_equal(keep_top_p(left, 0.5).ids, [2, 3])


def test_the_smallest_top_p_keeps_one_token():
    assert list(keep_top_p(apply_temperature(np.arange(9.0), 1.0), 1e-300).ids) == [8]


def test_minus_infinity_is_never_drawn():
    assert distribution([0.0, -math.inf, 0.0])[1] == 0


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 1e300])
def test_extreme_temperatures_give_the_limits(temperature):
    actual = distribution([1.0, 3.0, 2.0], temperature=temperature)
    expected = [0, 1, 0] if temperature < 1 else [1 / 3] * 3
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_draws_follow_the_distribution():
    logits = np.array([0.0, 1.0, 2.0, -1.0], dtype=np.float32)
    rng = np.random.default_rng(0)
    counts = np.bincount([sample(logits, SamplingConfig(), rng) for _ in range(20_000)], minlength=4)
    expected = 20_000 * distribution(logits)
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square of 3 degrees of freedom at 0.1 %


def test_one_seed_gives_one_sequence():
    logits = np.random.default_rng(0).normal(size=300).astype(np.float32)
    first, second = (
        [sample(logits, SamplingConfig(), rng) for _ in range(50)] for rng in map(np.random.default_rng, [3, 3])
    )
    assert first == second
    assert len(set(first)) > 10


@given(LOGITS)
def test_greedy_takes_the_highest_and_does_not_use_the_generator(logits):
    rng = np.random.default_rng(0)
    assert sample(logits, GREEDY, rng) == int(np.argmax(logits))
    assert rng.random() == np.random.default_rng(0).random()


def test_the_logits_are_not_modified():
    logits = np.array([0.0, 1.0, 2.0], dtype=np.float32)
    sample(logits, SamplingConfig(temperature=0.5, top_k=2, top_p=0.5), np.random.default_rng(0))
    np.testing.assert_array_equal(logits, [0.0, 1.0, 2.0])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("config", [GREEDY, SamplingConfig(top_k=1)])
def test_damaged_logits_are_refused(wrong, config):
    with pytest.raises(LogitsError, match=r"highest logit is (nan|inf), must be finite"):
        sample(np.array([0.0, wrong], dtype=np.float32), config, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1, must be a number of at least 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"temperature": "1"}, "temperature is '1'"),
        ({"temperature": True}, "temperature is True"),
        ({"top_k": 0}, "top_k is 0, must be an integer of at least 1; leave it out to keep all tokens"),
        ({"top_k": 2.0}, r"top_k is 2\.0"),
        ({"top_p": 0.0}, r"top_p is 0\.0, must be above 0 and at most 1"),
        ({"top_p": 1.01}, r"top_p is 1\.01"),
        ({"top_p": math.nan}, "top_p is nan"),
    ],
)
def test_settings_out_of_range_are_refused_by_name_and_value(settings, message):
    with pytest.raises(SettingError, match=message):
        SamplingConfig(**settings)
