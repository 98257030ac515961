"""What the serving graph alone does: rows of any lengths in one memory, which every step writes into."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from gpt2_runtime.engine import serving_graph as module
from gpt2_runtime.engine.binding import Binding
from gpt2_runtime.engine.buffers import untouched
from gpt2_runtime.engine.serving_graph import ServingGraph
from gpt2_runtime.errors import ContextFullError, SettingError
from gpt2_runtime.providers.providers import PROVIDERS
from hypothesis import given, settings
from hypothesis import strategies as st

TOLERANCE = 1e-4
POSITIONS = 64


def text(seed, length):
    return np.random.default_rng(seed).integers(0, 300, size=length).tolist()


def unused(cache, row):
    """What no text of a row has come to, [L, 2, H, positions, D]."""
    return cache.buffers.array[:, :, row, :, cache.lengths[row] :]


def poured(cache):
    """The cache with NaN wherever no text is."""
    for row in range(cache.batch_size):
        unused(cache, row)[...] = np.nan
    return cache


def assert_rows(logits, texts, read, keep, oracle):
    """Each row's logits [K, V] are its text's own, and NaN where it read fewer than K tokens."""
    for row, count in enumerate(read):
        scored = min(keep, count)
        assert np.isnan(logits[row, : keep - scored]).all()
        if scored:
            np.testing.assert_allclose(logits[row, -scored:], oracle(texts[row])[-scored:], atol=TOLERANCE)


@settings(max_examples=80)
@given(data=st.data())
def test_rows_of_any_lengths_are_the_rows_alone(serving, oracle, data):
    """Any sequence of ragged steps, roll-backs and selections, in any chunks, with NaN wherever no text is."""
    chunk = data.draw(st.integers(1, 40), "chunk")
    rows = data.draw(st.integers(1, 5), "rows")
    capacity = data.draw(st.integers(8, POSITIONS), "capacity")
    cache, texts = serving.empty_cache(rows, capacity=capacity), [[] for _ in range(rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PREFILL_CHUNK", chunk)
        for seed in range(data.draw(st.integers(1, 5), "steps")):
            most = data.draw(st.sampled_from([1, 3, 30]))
            new = [data.draw(st.integers(0, min(most, capacity - len(known)))) for known in texts]
            if any(new):
                read = [text(seed, count) for count in new]
                keep = data.draw(st.integers(1, max(new)), "keep")
                logits, cache = serving.step(read, poured(cache), keep)
                texts = [before + more for before, more in zip(texts, read, strict=True)]
                assert cache.lengths == tuple(map(len, texts))
                assert_rows(logits, texts, new, keep, oracle)
            if data.draw(st.booleans(), "roll back"):
                texts = [before[: data.draw(st.integers(0, len(before)))] for before in texts]
                cache = cache.crop([len(before) for before in texts])
            if data.draw(st.booleans(), "select"):
                taken = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=6), "rows")
                texts, cache = [texts[row] for row in taken], cache.reorder(taken)


@given(cuts=st.sets(st.integers(1, 49)), chunk=st.integers(1, 64))
def test_prefill_in_chunks_is_one_prefill(serving, oracle, cuts, chunk):
    """Whether the caller cuts the prompt, or the session does."""
    prompt, cache = text(0, 50), serving.empty_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PREFILL_CHUNK", chunk)
        ends = [*sorted(cuts), 50]
        for start, end in zip([0, *ends], ends, strict=False):
            logits, cache = serving.step([prompt[start:end]], cache)
    np.testing.assert_allclose(logits[0, -1], oracle(prompt)[-1], atol=TOLERANCE)


def greedy(session, rows, count):
    """`count` likeliest tokens of each row, which are decoded together."""
    logits, cache = session.step(rows, session.empty_cache(len(rows)))
    tokens = [[] for _ in rows]
    for _ in range(count):
        unread = [[int(row[-1].argmax())] for row in logits]
        for mine, new in zip(tokens, unread, strict=True):
            mine += new
        logits, cache = session.step(unread, cache)
    return tokens


def test_greedy_tokens_of_a_batch_are_those_of_each_row_alone(serving):
    rows = [text(seed, length) for seed, length in enumerate((1, 7, 30, 2))]
    together = greedy(serving, rows, 30)
    assert together == [greedy(serving, [row], 30)[0] for row in rows]
    assert all(len(set(tokens)) > 5 for tokens in together)


def test_an_idle_row_stays_as_it_is(serving):
    _, cache = serving.step([text(0, 5), text(1, 9), text(2, 3)], serving.empty_cache(3))
    before = cache.buffers.array[:, :, 1, :, :9].copy()
    for new in ([[5], [], [6]], [[], [], [6, 7]], [[7], [], [8, 9]]):
        _, cache = serving.step(new, cache)
        np.testing.assert_array_equal(cache.buffers.array[:, :, 1, :, :9], before)
    assert cache.lengths == (7, 9, 8)


def test_a_full_row_goes_along_idle(serving, oracle):
    """What is computed for it is written to the position that every row has to spare."""
    full, short = text(0, POSITIONS), text(1, 60)
    _, cache = serving.step([full, short], serving.empty_cache(2))
    before = cache.buffers.array[:, :, 0, :, :POSITIONS].copy()
    for token in (5, 6):
        short.append(token)
        logits, cache = serving.step([[], [token]], cache)
        np.testing.assert_allclose(logits[1, -1], oracle(short)[-1], atol=TOLERANCE)
    np.testing.assert_array_equal(cache.buffers.array[:, :, 0, :, :POSITIONS], before)
    with pytest.raises(ContextFullError, match="row 0 needs 65 positions, the cache has 64"):
        serving.step([[1], [1]], cache)


def test_idle_rows_on_both_sides_and_between(serving, oracle):
    texts = [text(seed, 4 + seed) for seed in range(5)]
    _, cache = serving.step(texts, serving.empty_cache(5))
    for reading in ((1, 3), (2,), (0, 4), (0, 1, 2, 3, 4)):
        for row in reading:
            texts[row].append(7 + row)
        new = [int(row in reading) for row in range(5)]
        logits, cache = serving.step([[7 + row] * count for row, count in enumerate(new)], poured(cache))
        assert_rows(logits, texts, new, 1, oracle)


def test_rolling_back_copies_nothing(serving):
    _, cache = serving.step([text(0, 20), text(1, 4)], serving.empty_cache(2))
    back = cache.crop([3, 4])
    assert back.buffers is cache.buffers


def test_a_selection_uses_the_cache_up_as_a_step_does(serving, oracle):
    _, old = serving.step([[1, 2, 3], [4, 5, 6]], serving.empty_cache(2))
    kept = old.copy()
    for rows in ([1, 0], [1, 1, 1]):
        old = kept.copy()
        new = old.reorder(rows)
        with pytest.raises(SettingError, match="cache is of step 0, its buffers of step 1; continue with the one"):
            serving.step([[7], [7]], old)
        logits, _ = serving.step([[7]] * len(rows), new)
        np.testing.assert_allclose(
            logits[:, -1], [oracle([*([1, 2, 3], [4, 5, 6])[row], 7])[-1] for row in rows], atol=TOLERANCE
        )
    with pytest.raises(SettingError, match="cache is of step 0"):
        old.reorder([0])


def test_as_many_rows_or_fewer_are_selected_in_the_memory_that_is_there(serving):
    _, cache = serving.step([text(seed, 5) for seed in range(3)], serving.empty_cache(3))
    buffers = cache.buffers
    for rows in ([2, 0, 0], [1, 1], [0], [0, 0, 0]):
        cache = cache.reorder(rows)
        assert cache.buffers is buffers
    assert cache.reorder([0, 1, 2, 0]).buffers is not buffers


def written(cache, rows):
    """How many positions of each row a selection writes, by what it changes."""
    array, before = cache.buffers.array, cache.buffers.array.copy()
    cache.reorder(rows)
    return (array != before).any(axis=(0, 1, 3, 5)).sum(axis=1).tolist()


def test_a_selection_copies_the_tokens_in_which_rows_differ(serving):
    """As the beams of one prompt do in their last tokens."""
    _, cache = serving.step([text(0, 20)], serving.empty_cache(capacity=40))
    cache = cache.reorder([0, 0, 0])
    _, cache = serving.step([[1], [2], [3]], cache)
    cache = cache.reorder([0, 0, 2])
    _, cache = serving.step([[4], [5], [6]], cache)
    assert [cache.alike[pair].item() for pair in ((0, 1), (0, 2), (1, 2))] == [21, 20, 20]
    assert written(cache.copy(), [0, 0, 2]) == [0, 1, 0]
    assert written(cache.copy(), [0, 1, 0]) == [0, 0, 2]
    assert written(cache.copy(), [2, 1, 0]) == [2, 0, 2]
    assert written(cache.copy(), [0, 1, 2]) == [0, 0, 0]
    shorter = cache.crop([19, 22, 22])
    _, cache = serving.step([[9, 9, 9], [], []], shorter)
    assert written(cache.copy(), [0, 0, 2]) == [0, 3, 0]


def test_a_row_is_given_its_tokens_and_nothing_else_is_written(serving):
    _, cache = serving.step([text(0, 20), text(1, 9), text(2, 4)], serving.empty_cache(3, capacity=30))
    snapshot, before = cache.snapshot(0, 15), cache.buffers.array.copy()
    given = cache.restore(2, snapshot, 11)
    assert given.buffers is cache.buffers
    assert given.lengths == (20, 9, 11)
    np.testing.assert_array_equal(given.buffers.array[:, :, 2, :, :11], before[:, :, 0, :, :11])
    given.buffers.array[:, :, 2, :, :11] = before[:, :, 2, :, :11]
    np.testing.assert_array_equal(given.buffers.array, before)


def test_a_cache_that_was_given_to_is_used_up_and_one_that_was_taken_from_is_not(serving):
    _, old = serving.step([[1, 2, 3]], serving.empty_cache())
    snapshot = old.snapshot(0, 2)
    new = old.restore(0, snapshot)
    for use in (lambda: serving.step([[7]], old), lambda: old.snapshot(0, 1), lambda: old.restore(0, snapshot)):
        with pytest.raises(SettingError, match="cache is of step 1, its buffers of step 2; continue with the one"):
            use()
    serving.step([[7]], new)


def test_a_row_that_was_given_tokens_is_like_no_other(serving, oracle):
    """Or a selection would leave them where other tokens are due."""
    _, cache = serving.step([text(0, 9)], serving.empty_cache())
    _, other = serving.step([text(1, 9)], serving.empty_cache())
    for row in (0, 1):
        twins = cache.copy().reorder([0, 0])
        given = twins.restore(row, other.snapshot(0, 6)).reorder([1, 0])
        texts = [text(0, 9), text(0, 9)]
        texts[1 - row] = text(1, 9)[:6]
        logits, _ = serving.step([[5], [6]], given)
        expected = [oracle([*texts[0], 5])[-1], oracle([*texts[1], 6])[-1]]
        np.testing.assert_allclose(logits[:, -1], expected, atol=TOLERANCE)


def test_a_cache_that_the_system_has_no_memory_for_is_refused():
    with pytest.raises(SettingError, match="cache needs 4,000,000,000,000,000,000 bytes, the system has less"):
        untouched((10**9, 10**9))


def test_a_cache_that_has_been_stepped_is_refused(serving, oracle):
    _, old = serving.step([[1, 2, 3]], serving.empty_cache())
    shorter = old.crop(1)
    _, new = serving.step([[4]], old)
    for stale in (old, shorter):
        for use in (lambda cache: serving.step([[5]], cache), lambda cache: cache.copy(), lambda c: c.crop(1)):
            with pytest.raises(SettingError, match="cache is of step 1, its buffers of step 2; continue with the one"):
                use(stale)
    logits, _ = serving.step([[5]], new)
    np.testing.assert_allclose(logits[0, -1], oracle([1, 2, 3, 4, 5])[-1], atol=TOLERANCE)


def test_a_step_that_fails_uses_the_cache_up(serving, monkeypatch):
    _, cache = serving.step([[1, 2, 3]], serving.empty_cache())

    def fail(self, feeds):
        raise KeyboardInterrupt

    monkeypatch.setattr(Binding, "run", fail)
    with pytest.raises(KeyboardInterrupt):
        serving.step([[4]], cache.crop(1))
    with pytest.raises(SettingError, match="cache is of step 1"):
        serving.step([[4]], cache)


def test_a_long_prompt_is_never_read_at_once(serving, monkeypatch):
    """Or its scores would be [H, T, T]."""
    monkeypatch.setattr(module, "PREFILL_CHUNK", 16)
    run, read = Binding.run, []
    monkeypatch.setattr(Binding, "run", lambda self, feeds: read.append(feeds["input_ids"].shape) or run(self, feeds))
    _, cache = serving.step([text(0, 50)], serving.empty_cache())
    serving.step([[5]], cache)
    assert read == [(1, 16), (1, 16), (1, 16), (1, 2), (1, 1)]


def test_on_a_device_a_run_takes_what_its_kernels_can_take(serving, monkeypatch):
    """The same graph, as if it were elsewhere."""
    run, read = Binding.run, []
    monkeypatch.setattr(Binding, "run", lambda self, feeds: read.append(feeds["input_ids"].shape) or run(self, feeds))
    elsewhere = replace(serving.opened, tensors=PROVIDERS["cuda"].tensors)
    prompts = [np.array(text(row, 5 * row + 1)) for row in range(9)]
    for opened in (serving.opened, elsewhere):
        opened.step(prompts, serving.empty_cache(9), 1)
    assert len(read) > 2
    assert read[-1] == (9, 41)


def test_logits_are_computed_only_where_they_are_requested(serving, monkeypatch):
    monkeypatch.setattr(module, "PREFILL_CHUNK", 16)
    run, scored = Binding.run, []
    monkeypatch.setattr(
        Binding, "run", lambda self, feeds: scored.append(len(feeds["logits_index"])) or run(self, feeds)
    )
    serving.step([text(0, 34)], serving.empty_cache(), logits_to_keep=3)
    assert scored == [0, 1, 2]


def test_a_cache_is_freed_with_its_last_value(serving):
    """Without the garbage collector, which may be long in coming: a cache can be 75 MB."""
    gc.disable()
    try:
        _, cache = serving.step([text(0, 3)], serving.empty_cache())
        alive = weakref.ref(cache.buffers)
        del cache
        assert alive() is None
    finally:
        gc.enable()


def test_room_that_is_not_used_takes_no_memory(serving, resident):
    before = resident()
    caches = [ServingGraph.empty_cache(serving.opened, 64, 10_000) for _ in range(4)]  # 1.3 GB each
    assert resident() - before < 10_000_000
    del caches


def test_text_without_room_for_it_is_refused_before_anything_is_written(serving):
    cache = serving.empty_cache(2, capacity=8)
    with pytest.raises(ContextFullError, match="row 1 needs 9 positions, the cache has 8, the model 64"):
        serving.step([text(0, 3), text(1, 9)], cache)
    assert not cache.buffers.array.any()
