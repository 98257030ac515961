"""min-p and typical-p against definitions written out here; and the order of all filters."""

import numpy as np
import pytest
from gpt2_runtime import SamplingConfig
from gpt2_runtime.sampling.filters import (
    FEW,
    apply_temperature,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical_p,
    probabilities,
)
from gpt2_runtime.sampling.sampler import candidates
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

# In steps of 1/8, which are exact in every operation here and tie often.
LOGITS = arrays.arrays(np.float32, st.integers(1, 40), elements=st.integers(-200, 200).map(lambda n: n / 8))
TEMPERATURES = st.floats(0.1, 10)
SHARES = st.floats(0.01, 0.999)


def softmax(scores):
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def vector(left, size):
    """The probability of each of the V tokens."""
    full = np.zeros(size)
    full[left.ids] = probabilities(left)
    return full


def top_k(scores, k):
    return np.where(scores >= np.sort(scores)[-min(k, len(scores))], scores, -np.inf)


def top_p(scores, p):
    ascending = np.argsort(scores, kind="stable")
    goes = np.cumsum(softmax(scores)[ascending]) <= 1 - p
    goes[-1] = False
    left = scores.copy()
    left[ascending[goes]] = -np.inf
    return left


def min_p(scores, p):
    likely = softmax(scores)
    return np.where(likely >= p * likely.max(), scores, -np.inf)


def distances(scores):
    """The distance of each token's surprise from the entropy; infinite for tokens of probability 0."""
    likely = softmax(scores)
    can = likely > 0
    entropy = -(likely[can] * np.log(likely[can])).sum()
    far = np.full(len(scores), np.inf)
    far[can] = np.abs(-np.log(likely[can]) - entropy)
    return far


def typical_p(scores, p):
    far = distances(scores)
    nearest = np.argsort(far, kind="stable")
    last = np.searchsorted(np.cumsum(softmax(scores)[nearest]), p)
    return np.where(far <= far[nearest[min(last, len(far) - 1)]], scores, -np.inf)


FILTERS = {"top_k": top_k, "top_p": top_p, "min_p": min_p, "typical_p": typical_p}  # in their order


def plainly(logits, *, temperature=1.0, **settings):
    """The probability vector of the definition, in float64."""
    scores = np.asarray(logits, dtype=np.float64) / temperature
    for name, keep in FILTERS.items():
        if name in settings:
            scores = keep(scores, settings[name])
    return softmax(scores)


@given(LOGITS, TEMPERATURES, st.floats(0, 1))
def test_min_p_keeps_tokens_at_least_p_times_as_likely_as_the_likeliest(logits, temperature, p):
    actual = vector(keep_min_p(apply_temperature(logits, temperature), p), len(logits))
    everything = plainly(logits, temperature=temperature)
    relative = everything / everything.max()
    assert actual.sum() == pytest.approx(1)
    assert all(relative[actual > 0] >= p * (1 - 1e-9))
    assert all(relative[actual == 0] < p * (1 + 1e-9) + 1e-300)
    np.testing.assert_allclose(actual[actual > 0], everything[actual > 0] / everything[actual > 0].sum(), rtol=1e-9)


def test_min_p_keeps_all_tokens_exactly_at_the_border():
    logits = np.array([0.0, -8.0, -2.0, -8.0, -8.125], dtype=np.float32)
    np.testing.assert_array_equal(keep_min_p(apply_temperature(logits, 8.0), np.exp(-1.0)).ids, [0, 1, 2, 3])
    np.testing.assert_array_equal(
        keep_min_p(apply_temperature(np.zeros(5, dtype=np.float32), 1.0), 1).ids, np.arange(5)
    )
    np.testing.assert_array_equal(keep_min_p(apply_temperature(logits, 1.0), 1).ids, [0])
    np.testing.assert_array_equal(keep_min_p(apply_temperature(logits, 1.0), 0).ids, np.arange(5))


@given(LOGITS, TEMPERATURES, SHARES)
def test_typical_p_keeps_the_fewest_of_the_most_typical(logits, temperature, p):
    actual = vector(keep_typical_p(apply_temperature(logits, temperature), p), len(logits))
    everything = plainly(logits, temperature=temperature)
    far = distances(np.asarray(logits, dtype=np.float64) / temperature)
    furthest = far[actual > 0].max()
    assert actual.sum() == pytest.approx(1)
    assert everything[actual > 0].sum() >= p - 1e-9
    assert everything[far < furthest - 1e-9].sum() < p + 1e-9  # without the ties with the last it would be too little
    assert all(far[(actual == 0) & (everything > 1e-300)] > furthest - 1e-9)
    np.testing.assert_allclose(actual[actual > 0], everything[actual > 0] / everything[actual > 0].sum(), rtol=1e-9)


def test_typical_p_can_leave_out_the_likeliest():
    # The likeliest has a surprise of 1.2 nats, each of the others 5; the entropy is 3.9.
    logits = np.log([0.3, *[0.7 / 100] * 100])
    assert vector(keep_typical_p(apply_temperature(logits, 1.0), 0.6), 101)[0] == 0


def test_typical_p_keeps_all_that_tie_with_the_last():
    logits = np.log([0.5, 0.125, 0.125, 0.125, 0.125])
    np.testing.assert_array_equal(keep_typical_p(apply_temperature(logits, 1.0), 0.1).ids, [1, 2, 3, 4])
    np.testing.assert_array_equal(keep_typical_p(apply_temperature(logits, 1.0), 0.51).ids, np.arange(5))


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
    "nearly flat": lambda rng, size: rng.normal(0, 1e-3, size),
    "peaked": lambda rng, size: rng.normal(0, 30, size),
    "spread": lambda rng, size: rng.uniform(-300, 0, size),
    "ties": lambda rng, size: rng.integers(-8, 9, size) / 4,
    "all equal": lambda rng, size: np.zeros(size),
    "with holes": with_holes,
    "one finite": one_finite,
    "one above": lambda rng, size: np.where(np.arange(size) == rng.integers(size), 20.0, rng.normal(0, 1, size)),
}
SIZES = [1, 2, 700, FEW + 1, 5003, 50257]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_min_p_of_any_shape_and_size_keeps_the_tokens_of_the_definition(shape, size):
    rng = np.random.default_rng(size)
    for p, temperature in ((0.02, 1.0), (0.5, 0.7), (1e-6, 2.0), (1e-30, 1.0), (1, 1.0)):
        logits = SHAPES[shape](rng, size).astype(np.float32)
        actual = vector(keep_min_p(apply_temperature(logits, temperature), p), size)
        scores = (logits.astype(np.float64) - float(logits.max())) / temperature
        stays = scores >= np.log(p)
        wrong = (actual > 0) != (stays & (scores > -85))  # below, the probability is 0 in float32
        assert np.abs(scores[wrong] - np.log(p)).max(initial=0) < 1e-12
        np.testing.assert_allclose(actual, softmax(np.where(actual > 0, scores, -np.inf)), atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_typical_p_of_any_shape_and_size_keeps_the_tokens_of_the_definition(shape, size):
    rng = np.random.default_rng(size)
    for p, temperature in ((0.2, 1.0), (0.9, 0.7), (0.5, 2.0), (0.999, 1.0), (1e-9, 1.0)):
        logits = SHAPES[shape](rng, size).astype(np.float32)
        left = keep_typical_p(apply_temperature(logits, temperature), p)
        actual = vector(left, size)
        scores = logits.astype(np.float64) / temperature
        likely, far = softmax(scores), distances(scores)
        nearest = np.argsort(far, kind="stable")
        # For each token the mass of all that are nearer; it is below p for the tokens that stay.
        ends = np.cumsum(likely[nearest])
        firsts = np.searchsorted(far[nearest], far, side="left")
        nearer = np.where(firsts > 0, ends[firsts - 1], 0)
        likely_enough = likely > 1e-30
        wrong = ((actual > 0) != (nearer < p)) & likely_enough
        border = far[nearest[min(np.searchsorted(ends, p), size - 1)]]
        at_border = (np.abs(nearer - p) < 1e-6) | (np.abs(far - border) < 1e-5)
        assert not np.any(wrong & ~at_border), (p, temperature)
        np.testing.assert_allclose(actual, softmax(np.where(actual > 0, scores, -np.inf)), atol=1e-6)


@given(LOGITS, TEMPERATURES, st.integers(1, 40), SHARES, st.floats(0, 1), SHARES)
def test_the_filters_run_in_transformers_order(logits, temperature, k, top, least, typical):
    left = apply_temperature(logits, temperature)
    expected = keep_typical_p(keep_min_p(keep_top_p(keep_top_k(left, k), top), least), typical)
    settings = {"temperature": temperature, "top_k": k, "top_p": top, "min_p": least, "typical_p": typical}
    actual = candidates(logits, SamplingConfig(**settings))
    np.testing.assert_array_equal(actual.ids, expected.ids)
    np.testing.assert_array_equal(probabilities(actual), probabilities(expected))


SOME = [
    {"temperature": 0.7, "min_p": 0.03},
    {"temperature": 1.5, "typical_p": 0.6},
    {"top_k": 300, "typical_p": 0.4},
    {"top_k": 30, "min_p": 0.1},
    {"top_p": 0.8, "min_p": 0.02},
    {"top_p": 0.8, "typical_p": 0.7},
    {"min_p": 0.01, "typical_p": 0.9},
    {"temperature": 1.2, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "typical_p": 0.8},
    {"temperature": 0.9, "top_k": 4000, "top_p": 0.99, "min_p": 1e-3, "typical_p": 0.95},
]


@pytest.mark.parametrize("settings", SOME)
@pytest.mark.parametrize("size", [40, 1500, 5003, 50257])
def test_probabilities_match_the_definition(settings, size):
    for seed in range(3):
        logits = np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)
        actual = vector(candidates(logits, SamplingConfig(**settings)), size)
        np.testing.assert_allclose(actual, plainly(logits, **settings), atol=1e-6)


@pytest.mark.parametrize(
    ("first", "second"),
    [({"top_k": 20}, {"top_p": 0.8}), ({"top_p": 0.8}, {"min_p": 0.12}), ({"min_p": 0.12}, {"typical_p": 0.6})],
)
def test_another_order_gives_another_distribution(first, second):
    """Shows that the tests of the order can fail."""
    logits = np.random.default_rng(0).normal(0, 2, 60)
    (early, value), (late, other) = *first.items(), *second.items()
    reversed_ = softmax(FILTERS[early](FILTERS[late](logits, other), value))
    assert np.abs(reversed_ - plainly(logits, **first, **second)).max() > 1e-3


@pytest.mark.parametrize("settings", [{"min_p": 0.05}, {"typical_p": 0.5}, {"min_p": 0.02, "typical_p": 0.8}])
@pytest.mark.parametrize("size", [40, 5003])
def test_draws_come_from_the_tokens_kept(settings, size):
    logits = np.random.default_rng(1).normal(0, 1, size).astype(np.float32)
    left = candidates(logits, SamplingConfig(**settings))
    rng = np.random.default_rng(0)
    drawn = {draw(left, rng) for _ in range(300)}
    assert drawn <= set(np.flatnonzero(plainly(logits, **settings)))
    assert len(drawn) > 5


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 1e300])
@pytest.mark.parametrize("size", [3, 5003])
def test_extreme_temperatures_give_the_limits(temperature, size):
    logits = np.zeros(size, dtype=np.float32)
    logits[1] = 3
    likeliest = np.arange(size) == 1
    # However close together, the scores of all but one are closer to the mean.
    flat = {"min_p": np.full(size, 1 / size), "typical_p": ~likeliest / (size - 1)}
    for name in flat:
        actual = vector(candidates(logits, SamplingConfig(temperature=temperature, **{name: 0.5})), size)
        np.testing.assert_allclose(actual, likeliest if temperature < 1 else flat[name], atol=1e-9)
