"""A tensor of keys on a device, tried where there is none: it lies on the CPU, but goes by the device's road."""

import numpy as np
import onnxruntime
import pytest
from gpt2_runtime import GREEDY, LookupConfig, Session, TextGenerator, beam_search
from gpt2_runtime.engine import ort_values

ARRAY = np.random.default_rng(0).standard_normal((3, 4, 5, 6)).astype(np.float32)  # [B, H, P, D]
PART = np.ones((4, 5, 6), np.float32)


@pytest.fixture(params=[False, True], ids=["host", "device"])
def tensor(request, monkeypatch, cuda_runtime):
    monkeypatch.setattr(ort_values, "remote", lambda tensor: request.param)
    yield onnxruntime.OrtValue.ortvalue_from_numpy(ARRAY)
    assert cuda_runtime.started == 0, "no one has waited for a copy"


def read(value):
    """Its numbers, copied while it is there: what `numpy` returns may be memory of the array that it was made of."""
    return value.numpy().copy()


def test_what_is_made_is_memory_of_its_own(tensor):
    """Also one row of one head, whose first positions lie together."""
    one = onnxruntime.OrtValue.ortvalue_from_numpy(ARRAY[:1, :1].copy())
    part = np.ones((1, 5, 6), np.float32)
    for made in (ort_values.cut(one, 2), ort_values.gathered(one, [0]), ort_values.replaced(one, 0, part)):
        assert not np.shares_memory(made.numpy(), one.numpy())
        assert not np.shares_memory(made.numpy(), part)


@pytest.mark.parametrize("length", [0, 2, 5])
def test_all_rows_are_cut(tensor, length):
    np.testing.assert_array_equal(read(ort_values.cut(tensor, length)), ARRAY[:, :, :length])


def test_rows_are_gathered_in_any_order_and_number(tensor):
    np.testing.assert_array_equal(read(ort_values.gathered(tensor, [2, 0, 0, 1])), ARRAY[[2, 0, 0, 1]])


def test_one_row_is_replaced_and_the_tensor_stays(tensor):
    found = read(ort_values.replaced(tensor, 1, PART[:, :, ::-1]))
    np.testing.assert_array_equal(found, [ARRAY[0], PART, ARRAY[2]])
    np.testing.assert_array_equal(tensor.numpy(), ARRAY)


def test_the_only_row_may_be_of_another_length(tensor):
    one = ort_values.gathered(tensor, [1])
    np.testing.assert_array_equal(read(ort_values.replaced(one, 0, PART[:, :2])), PART[None, :, :2])


@pytest.mark.parametrize("length", [0, 2, 5])
def test_a_row_is_read(tensor, length):
    np.testing.assert_array_equal(ort_values.read(tensor, 2, length), ARRAY[2, :, :length])


def test_texts_are_those_of_the_host(folder, monkeypatch, cuda_runtime):
    session = Session.open(folder, threads=1, graph="portable")

    def texts():
        generator = TextGenerator(session=session, tokenizer=None)
        settings = {"max_new_tokens": 20, "stop_token_ids": ()}
        guessed = generator.complete([5, 6, 7] * 4, sampling=GREEDY, lookup=LookupConfig(), **settings).token_ids
        return guessed, [beam.token_ids for beam in beam_search(session, [5, 6, 7], num_beams=3, **settings)]

    expected = texts()
    monkeypatch.setattr(ort_values, "remote", lambda tensor: True)
    assert texts() == expected
