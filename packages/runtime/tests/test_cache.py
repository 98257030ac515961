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


SELECTIONS = [[0], [2], [0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 0, 1], [1, 0, 0], [2, 2, 2], [1, 0], [2, 0, 1, 1, 0, 2, 2]]


@pytest.mark.parametrize("rows", SELECTIONS, ids=str)
def test_each_selected_row_goes_on_as_the_row_it_was(either, oracle, rows):
    texts = np.random.default_rng(2).integers(0, 300, size=(3, 9)).tolist()
    _, cache = either.step(texts, either.empty_cache(3, capacity=20))
    for tokens in ([5, 6, 7, 8, 9, 10, 11], [20, 21, 22, 23, 24, 25, 26]):
        cache = cache.selected(rows)
        texts = [[*texts[row], token] for row, token in zip(rows, tokens, strict=False)]
        assert (cache.lengths, cache.capacity) == ((len(texts[0]) - 1,) * len(rows), 20)
        logits, cache = either.step([text[-1:] for text in texts], cache)
        np.testing.assert_allclose(logits[:, -1], [oracle(text)[-1] for text in texts], atol=1e-4)
        rows = [row % len(rows) for row in rows]


def test_rows_of_an_empty_cache_are_selected_and_numpy_may_say_which(either, oracle):
    cache = either.empty_cache(2).selected(np.array([1, 0, 0]))
    logits, _ = either.step([[5, 6], [7, 8], [9, 10]], cache)
    np.testing.assert_allclose(logits[:, -1], [oracle(ids)[-1] for ids in ([5, 6], [7, 8], [9, 10])], atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([0, 2], "row is 2, the cache has 2; select from 0 to 1"),
        ([-1], "row is -1, the cache has 2"),
        ([True], "row is True, the cache has 2"),
        ([0.0], "row is 0.0, the cache has 2"),
        ("01", "row is '0', the cache has 2"),
        ([], r"rows are \[\], must be one or more of the cache's 2"),
        (1, "rows are 1, must be one or more of the cache's 2"),
    ],
)
def test_a_row_that_is_not_there_is_refused_and_nothing_is_used_up(either, rows, told):
    cache = either.empty_cache(2)
    with pytest.raises(SettingError, match=told):
        cache.selected(rows)
    either.step([[1], [2]], cache)
