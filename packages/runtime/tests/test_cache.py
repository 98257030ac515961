import numpy as np
import pytest
from gpt2_runtime.errors import SettingError

IDS = np.random.default_rng(1).integers(0, 300, size=(1, 40))


@pytest.mark.parametrize("length", [0, 1, 17, 39, 40])
def test_rolling_back_equals_never_having_stepped(session, length):
    _, kept = session.step(IDS[:, :length], session.empty_cache()) if length else (None, session.empty_cache())
    _, longer = session.step(IDS, session.empty_cache())
    back = longer.rolled_back(length)
    assert (back.length, longer.length) == (length, 40)
    expected, _ = session.step([[7, 8]], kept)
    found, cache = session.step([[7, 8]], back)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert cache.length == length + 2


def test_the_tensors_are_as_long_as_the_cache_says(session):
    _, cache = session.step(IDS, session.empty_cache())
    for tensor in [tensor for layer in cache.rolled_back(3).layers for tensor in layer]:
        assert tensor.shape() == [1, 4, 3, 8]


@pytest.mark.parametrize("length", [-1, 3])
def test_a_length_that_is_not_cached_is_refused(session, length):
    _, cache = session.step([[1, 2]], session.empty_cache())
    with pytest.raises(SettingError, match=f"length is {length}, the cache holds 2"):
        cache.rolled_back(length)
