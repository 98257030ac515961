import numpy as np
import pytest
from gpt2_runtime.errors import SettingError

IDS = np.random.default_rng(1).integers(0, 300, size=(1, 40))


@pytest.mark.parametrize("length", [0, 1, 17, 39, 40])
def test_rolling_back_equals_never_having_stepped(either, length):
    kept = either.empty_cache()
    if length:
        _, kept = either.step(IDS[:, :length], kept)
    _, longer = either.step(IDS, either.empty_cache())
    back = longer.rolled_back(length)
    assert (back.lengths, longer.lengths) == ((length,), (40,))
    expected, _ = either.step([[7, 8]], kept, logits_to_keep=2)
    found, cache = either.step([[7, 8]], back, logits_to_keep=2)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert cache.lengths == (length + 2,)


def test_a_copy_goes_on_by_itself(either, oracle):
    _, cache = either.step(IDS[:, :10], either.empty_cache())
    branches = [cache.copy() for _ in range(3)]
    for token, branch in zip((5, 6, 5), branches, strict=True):
        for _ in range(2):
            logits, branch = either.step([[token]], branch)
        np.testing.assert_allclose(logits[0, -1], oracle([*IDS[0, :10], token, token])[-1], atol=1e-4)
    logits, _ = either.step([[9]], cache)
    np.testing.assert_allclose(logits[0, -1], oracle([*IDS[0, :10], 9])[-1], atol=1e-4)


def test_a_cache_knows_its_rows_and_its_room(either):
    cache = either.empty_cache(3, capacity=7)
    assert (cache.batch_size, cache.lengths, cache.capacity) == (3, (0, 0, 0), 7)
    assert either.empty_cache().capacity == 64


@pytest.mark.parametrize("length", [-1, 3])
def test_a_length_that_is_not_cached_is_refused(either, length):
    _, cache = either.step([[1, 2]], either.empty_cache())
    with pytest.raises(SettingError, match=f"length is {length}, row 0 of the cache holds 2; roll back to 0 to 2"):
        cache.rolled_back(length)


def test_a_length_is_given_for_each_row_or_for_all(either):
    _, cache = either.step([[1, 2], [3, 4]], either.empty_cache(2))
    assert cache.rolled_back(1).lengths == cache.rolled_back([1, 1]).lengths == (1, 1)
    assert cache.rolled_back(np.array([1, 1])).lengths == (1, 1)
    with pytest.raises(SettingError, match="lengths are 1, the cache has 2 rows; give one for each"):
        cache.rolled_back([1])
