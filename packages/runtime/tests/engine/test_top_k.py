from functools import partial

import numpy as np
import pytest
from gpt2_runtime.engine.session import open_inference
from gpt2_runtime.engine.top_k import GRAPH, TopK
from gpt2_runtime.providers.providers import choose_provider

V = 50257


@pytest.fixture(scope="module")
def top_k():
    """On the CPU: what lies there has an address too."""
    return TopK(partial(open_inference, GRAPH, choose_provider("cpu"), 1, True), "cpu")


def highest(top_k, logits, count):
    return top_k.highest(int(logits.ctypes.data), *logits.shape, count)


def test_the_highest_of_each_row_are_found(top_k):
    logits = np.random.default_rng(0).standard_normal((3, V)).astype(np.float32)
    found = highest(top_k, logits, 20)
    expected = np.argsort(-logits, axis=1)[:, :20]
    np.testing.assert_array_equal(found.ids, expected)
    np.testing.assert_array_equal(found.values, np.take_along_axis(logits, expected, axis=1))
    assert found.finite.all()
    assert found.vocab_size == V


def test_of_a_small_vocabulary_all_are_found(top_k):
    logits = np.array([[1, 3, 2]], np.float32)
    assert highest(top_k, logits, 20).ids.tolist() == [[1, 2, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, V // 2, V - 1])
def test_one_number_that_is_not_finite_is_noticed(top_k, bad, place):
    logits = np.zeros((3, V), np.float32)
    logits[1, place] = bad
    assert highest(top_k, logits, 1).finite.tolist() == [True, False, True]


def test_a_sum_that_overflows_is_not_taken_for_sound(top_k):
    assert not highest(top_k, np.full((1, V), 3e38, np.float32), 1).finite.any()


def test_it_is_opened_when_it_is_needed_and_once():
    opened = []
    top_k = TopK(lambda: opened.append(1) or open_inference(GRAPH, choose_provider("cpu"), 1, True), "cpu")
    assert not opened
    for _ in range(2):
        highest(top_k, np.zeros((2, 5), np.float32), 1)
    assert opened == [1]
