"""A rescaling that changes no bit of the result."""

import numpy as np
import pytest
from gpt2_export.precision import smoothing
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 2**32 - 1))
def test_norm_and_matrix_give_the_same_bits_after_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, bias, reader, x = (rng.normal(size=size).astype(np.float32) for size in (8, 8, (8, 5), 8))
    weight[3] *= 30
    factors = smoothing.factors(weight, bias, reader)
    channels = x * weight + bias
    moved = x * (weight / factors) + bias / factors
    np.testing.assert_array_equal(moved[:, None] * (reader * factors[:, None]), channels[:, None] * reader)


def test_it_takes_half_of_an_excess_in_powers_of_two_and_leaves_the_rest_alone() -> None:
    weight = np.ones(64, np.float32)
    weight[[5, 20]] = 16, 1 / 16
    reader = np.full((64, 3), 0.02, np.float32)
    result = smoothing.factors(weight, np.zeros(64, np.float32), reader)
    assert result[[5, 20]].tolist() == [4, 0.25]
    assert (np.delete(result, [5, 20]) == 1).all()


@pytest.mark.parametrize("dead", ["norm", "reader"])
def test_a_dead_channel_is_left_alone(dead: str) -> None:
    weight, reader = np.ones(4, np.float32), np.ones((4, 2), np.float32)
    (weight if dead == "norm" else reader)[1] = 0
    assert smoothing.factors(weight, np.zeros(4, np.float32), reader).tolist() == [1, 1, 1, 1]
    assert smoothing.factors(np.zeros(4), np.zeros(4), reader).tolist() == [1, 1, 1, 1]
