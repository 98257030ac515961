import numpy as np
import pytest
from gpt2_runtime.engine.binding import Binding, wrapped
from gpt2_runtime.engine.buffers import HostBuffers
from gpt2_runtime.engine.step_plan import GraphCall, feeds

IDS = np.array([5, 60, 7])


@pytest.fixture
def memory(session):
    sizes = session.bundle.architecture
    return np.zeros((sizes.n_layer, 2, 1, sizes.n_head, 10, sizes.head_dim), dtype=np.float32)


def test_a_value_is_the_arrays_own_memory():
    array = np.arange(6, dtype=np.float32)
    value = wrapped(array)
    array[3] = 7
    assert value.numpy()[3] == 7


def test_an_array_that_would_be_copied_is_a_bug():
    with pytest.raises(AssertionError):
        wrapped(np.zeros((4, 6), dtype=np.float32)[:, ::2])


def test_a_run_writes_keys_and_values_where_they_lie(session, memory, oracle):
    binding = Binding(session.opened.inference, HostBuffers(memory).allocation, first=0, rows=1, tokens=3, logits=1)
    logits = binding.run(feeds(GraphCall(0, (range(3),)), [IDS], [0], keep=[1])).all()
    np.testing.assert_allclose(logits, oracle(IDS)[-1:], atol=1e-4)
    written = np.abs(memory).max(axis=(2, 3, 5))  # [L, 2, positions]
    assert (written[..., :3] > 0).all()
    assert not written[..., 3:].any()


def test_a_binding_is_used_again_and_its_logits_are_the_callers_to_keep(session, memory, oracle):
    first = Binding(session.opened.inference, HostBuffers(memory).allocation, first=0, rows=1, tokens=1, logits=1)
    kept = []
    for past in range(len(IDS)):
        fed = feeds(GraphCall(0, (range(1),)), [IDS[past : past + 1]], [past], keep=[1])
        kept.append(first.run(fed).all()[0])
    np.testing.assert_allclose(kept, oracle(IDS), atol=1e-4)


def test_no_logits_may_be_requested(session, memory):
    binding = Binding(session.opened.inference, HostBuffers(memory).allocation, first=0, rows=1, tokens=2, logits=0)
    fed = feeds(GraphCall(0, (range(2),)), [IDS], [0], keep=[1])
    assert binding.run(fed).all().shape == (0, 300)
