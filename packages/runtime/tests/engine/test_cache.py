import numpy as np
import pytest
from gpt2_runtime import Session
from gpt2_runtime.engine.cache import Snapshot
from gpt2_runtime.errors import ContextFullError, SettingError

IDS = np.random.default_rng(1).integers(0, 300, size=(1, 40))


@pytest.mark.parametrize("length", [0, 1, 17, 39, 40])
def test_rolling_back_equals_never_having_stepped(either, length):
    kept = either.empty_cache()
    if length:
        _, kept = either.step(IDS[:, :length], kept)
    _, longer = either.step(IDS, either.empty_cache())
    back = longer.crop(length)
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
        cache.crop(length)


def test_a_length_is_given_for_each_row_or_for_all(either):
    _, cache = either.step([[1, 2], [3, 4]], either.empty_cache(2))
    assert cache.crop(1).lengths == cache.crop([1, 1]).lengths == (1, 1)
    assert cache.crop(np.array([1, 1])).lengths == (1, 1)
    with pytest.raises(SettingError, match="lengths are 1, the cache has 2 rows; give one for each"):
        cache.crop([1])


SELECTIONS = [[0], [2], [0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 0, 1], [1, 0, 0], [2, 2, 2], [1, 0], [2, 0, 1, 1, 0, 2, 2]]


@pytest.mark.parametrize("rows", SELECTIONS, ids=str)
def test_each_selected_row_goes_on_as_the_row_it_was(either, oracle, rows):
    texts = np.random.default_rng(2).integers(0, 300, size=(3, 9)).tolist()
    _, cache = either.step(texts, either.empty_cache(3, capacity=20))
    for tokens in ([5, 6, 7, 8, 9, 10, 11], [20, 21, 22, 23, 24, 25, 26]):
        cache = cache.reorder(rows)
        texts = [[*texts[row], token] for row, token in zip(rows, tokens, strict=False)]
        assert (cache.lengths, cache.capacity) == ((len(texts[0]) - 1,) * len(rows), 20)
        logits, cache = either.step([text[-1:] for text in texts], cache)
        np.testing.assert_allclose(logits[:, -1], [oracle(text)[-1] for text in texts], atol=1e-4)
        rows = [row % len(rows) for row in rows]


def test_rows_of_an_empty_cache_are_selected_and_numpy_may_say_which(either, oracle):
    cache = either.empty_cache(2).reorder(np.array([1, 0, 0]))
    logits, _ = either.step([[5, 6], [7, 8], [9, 10]], cache)
    np.testing.assert_allclose(logits[:, -1], [oracle(ids)[-1] for ids in ([5, 6], [7, 8], [9, 10])], atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([0, 2], "row is 2, the cache has 2; select from 0 to 1"),
        ([-1], "row is -1, the cache has 2"),
        ([True], "row is True, the cache has 2"),
        ([0.0], "row is 0.0, the cache has 2"),
        ("01", "rows is '01', must be"),
        ([], r"rows is \[\], must be one or more of the cache's 2"),
        (1, "rows is 1, must be one or more of the cache's 2"),
    ],
)
def test_a_row_that_is_not_there_is_refused_and_nothing_is_used_up(either, rows, complaint):
    cache = either.empty_cache(2)
    with pytest.raises(SettingError, match=complaint):
        cache.reorder(rows)
    either.step([[1], [2]], cache)


GRAPHS = [("serving", "fp32"), ("serving", "int8"), ("serving", "fp16"), ("portable", "fp32"), ("portable", "int8")]


@pytest.fixture(params=GRAPHS, ids="-".join, scope="module")
def opened(request, folder):
    graph, precision = request.param
    return Session.open(folder, threads=1, graph=graph, precision=precision)


@pytest.mark.parametrize("length", [1, 2, 17, 40])
def test_a_row_that_is_given_a_snapshot_steps_on_exactly_like_the_one_it_is_of(opened, length):
    _, cache = opened.step(IDS, opened.empty_cache())
    snapshot = cache.snapshot(0, length)
    assert (snapshot.length, snapshot.nbytes) == (length, snapshot.array.nbytes)
    original = cache.crop(length)
    expected = [np.empty(0)]
    for token in (5, 6, 7):
        logits, original = opened.step([[token, 9]], original, logits_to_keep=2)
        expected.append(logits)
    _, other = opened.step([[1, 2, 3]], opened.empty_cache(capacity=length + 6))
    for before in (opened.empty_cache(capacity=length + 6), other):
        given = before.restore(0, snapshot)
        assert (given.lengths, given.capacity) == ((length,), length + 6)
        for token, logits in zip((5, 6, 7), expected[1:], strict=True):
            found, given = opened.step([[token, 9]], given, logits_to_keep=2)
            np.testing.assert_array_equal(found, logits)


def test_the_first_tokens_of_a_snapshot_are_given_alone(either):
    _, cache = either.step(IDS, either.empty_cache())
    expected, _ = either.step([[5]], cache.crop(7).copy())
    snapshot = cache.snapshot(0, 20)
    found, after = either.step([[5]], either.empty_cache().restore(0, snapshot, 7))
    np.testing.assert_array_equal(found, expected)
    assert after.lengths == (8,)
    assert either.empty_cache().restore(0, snapshot, np.int64(0)).lengths == (0,)


def test_a_snapshot_stays_as_it_is_when_the_caches_change(either):
    _, cache = either.step(IDS, either.empty_cache())
    snapshot = cache.snapshot(0, 30)
    before = snapshot.array.copy()
    _, cache = either.step([[5, 6, 7]], cache.crop(0))
    given = either.empty_cache().restore(0, snapshot)
    either.step([[8, 9]], given.crop(3))
    np.testing.assert_array_equal(snapshot.array, before)
    with pytest.raises(ValueError, match="read-only"):
        snapshot.array[...] = 0


def test_the_neighbours_of_a_row_that_is_given_a_snapshot_go_on(either):
    texts = np.random.default_rng(3).integers(0, 300, size=(3, 9)).tolist()
    _, cache = either.step(texts, either.empty_cache(3))
    snapshot = cache.snapshot(2, 9)
    expected, _ = either.step([[5], [6], [7]], cache.copy())
    found, _ = either.step([[5], [7], [7]], cache.copy().restore(1, snapshot))
    np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])
    np.testing.assert_array_equal(found[1], expected[2])


@pytest.mark.parametrize(
    ("row", "length", "complaint"),
    [
        (1, 1, "row is 1, the cache has 1; take from 0 to 0"),
        (True, 1, "row is True, the cache has 1"),
        ("0", 1, "row is '0', the cache has 1"),
        (0, 3, "length is 3, row 0 of the cache holds 2; take 0 to 2"),
        (0, -1, "length is -1, row 0 of the cache holds 2"),
        (0, 1.0, "length is 1.0, row 0 of the cache holds 2"),
    ],
)
def test_what_is_not_there_cannot_be_taken(either, row, length, complaint):
    _, cache = either.step([[1, 2]], either.empty_cache())
    with pytest.raises(SettingError, match=complaint):
        cache.snapshot(row, length)


def test_what_does_not_fit_is_not_given_and_nothing_is_used_up(either, folder):
    _, cache = either.step([[1, 2, 3, 4, 5]], either.empty_cache())
    snapshot = cache.snapshot(0, 5)
    other = Session.open(folder, threads=1, graph=either.graph)
    narrow = Snapshot(owner=snapshot.owner, array=snapshot.array[:, :, :, :, :4])
    half = Snapshot(owner=snapshot.owner, array=snapshot.array.astype(np.float16))
    small = either.empty_cache(capacity=4)
    for refused, complaint in (
        (lambda: small.restore(1, snapshot), "row is 1, the cache has 1; give to from 0 to 0"),
        (
            lambda: small.restore(0, snapshot.array),
            "snapshot is ndarray, must come from the snapshot method of a cache",
        ),
        (lambda: small.restore(0, snapshot, 6), "length is 6, the snapshot holds 5; give 0 to 5"),
        (lambda: small.restore(0, snapshot, True), "length is True, the snapshot holds 5"),
        (
            lambda: small.restore(0, narrow, 1),
            r"snapshot is float32 of shape \(2, 2, 4, 4\), the cache float32 of shape",
        ),
        (lambda: small.restore(0, half, 1), r"snapshot is float16 of shape \(2, 2, 4, 8\), the cache float32 of shape"),
        (
            lambda: other.empty_cache().restore(0, snapshot),
            "snapshot belongs to another session; take it from a cache",
        ),
    ):
        with pytest.raises(SettingError, match=complaint):
            refused()
    with pytest.raises(ContextFullError, match="row 0 would get 5 tokens, the cache has room for 4; restore"):
        small.restore(0, snapshot)
    either.step([[1]], small)


@pytest.mark.parametrize("lengths", [None, 1.5, True, {1}, np.array(1.0), np.eye(2), "ab", [1, None]], ids=repr)
def test_lengths_that_are_no_integers_are_refused(either, lengths):
    _, cache = either.step([[5, 6], [7, 8]], either.empty_cache(2))
    with pytest.raises(SettingError, match=r"lengths? (is|are) "):
        cache.crop(lengths)


@pytest.mark.parametrize("rows", [None, 1, np.array(1), np.eye(2), [[1], [1, 2]], {0}], ids=repr)
def test_rows_that_are_no_list_are_refused(either, rows):
    with pytest.raises(SettingError, match=r"rows? (is|are) "):
        either.empty_cache(2).reorder(rows)
