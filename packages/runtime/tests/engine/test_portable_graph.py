"""What the portable graph alone does: rows of one length, in chunks, over a past that is never changed."""

import numpy as np
import pytest
from gpt2_runtime.engine import portable_graph as module
from gpt2_runtime.errors import SettingError


@pytest.mark.parametrize("keep", [1, 5, 50])
def test_prefill_in_chunks_is_one_prefill(portable, oracle, monkeypatch, keep):
    prompt = np.random.default_rng(0).integers(0, 300, size=50)
    for chunk in (1, 7, 49, 50):
        monkeypatch.setattr(module, "PREFILL_CHUNK", chunk)
        logits, cache = portable.step([prompt], portable.empty_cache(), keep)
        np.testing.assert_allclose(logits[0], oracle(prompt)[-keep:], atol=1e-4)
        assert cache.lengths == (50,)


def test_rows_of_different_lengths_are_refused(portable):
    with pytest.raises(SettingError, match="rows read 1, 2 tokens, the portable graph's rows must have equal lengths"):
        portable.step([[5], [6, 7]], portable.empty_cache(2))
    with pytest.raises(SettingError, match="rows read 1, 0 tokens"):
        portable.step([[5], []], portable.empty_cache(2))
    _, cache = portable.step([[5, 6], [6, 7]], portable.empty_cache(2))
    with pytest.raises(SettingError, match="rows would be cropped to 1, 2 tokens"):
        cache.crop([1, 2])


def test_a_cache_stays_usable(portable, oracle):
    _, cache = portable.step([[1, 2, 3]], portable.empty_cache())
    for token in (5, 6, 5):
        logits, _ = portable.step([[token]], cache)
        np.testing.assert_allclose(logits[0, -1], oracle([1, 2, 3, token])[-1], atol=1e-4)


def test_the_tensors_are_as_long_as_the_cache_says(portable):
    _, cache = portable.step([[1, 2, 3, 4]], portable.empty_cache())
    for tensor in cache.crop(3).tensors:
        assert tensor.shape() == [1, 4, 3, 8]


def test_a_cache_that_was_selected_from_stays_usable(portable, oracle):
    _, cache = portable.step([[1, 2], [3, 4]], portable.empty_cache(2))
    assert cache.reorder([0, 1]) is cache
    cache.reorder([1, 1, 1])
    logits, _ = portable.step([[5], [6]], cache)
    np.testing.assert_allclose(logits[:, -1], [oracle([1, 2, 5])[-1], oracle([3, 4, 6])[-1]], atol=1e-4)


def test_a_row_given_another_length_than_its_neighbours_is_refused(portable):
    _, cache = portable.step([[1, 2, 3], [4, 5, 6]], portable.empty_cache(2))
    snapshot = cache.snapshot(0, 3)
    assert cache.restore(1, snapshot).lengths == (3, 3)
    with pytest.raises(SettingError, match="rows would hold 3, 2 tokens, the portable graph's rows must have equal"):
        cache.restore(1, snapshot, 2)
    with pytest.raises(SettingError, match="rows would hold 3, 0 tokens"):
        portable.empty_cache(2).restore(0, snapshot)


def test_a_cache_that_was_given_to_stays_usable(portable, oracle):
    _, cache = portable.step([[1, 2], [3, 4]], portable.empty_cache(2))
    cache.restore(1, cache.snapshot(0, 2))
    logits, _ = portable.step([[5], [6]], cache)
    np.testing.assert_allclose(logits[:, -1], [oracle([1, 2, 5])[-1], oracle([3, 4, 6])[-1]], atol=1e-4)
