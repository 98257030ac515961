"""Memory that goes from cache to cache, and runs over it as they are where CUDA graphs are captured: on the CPU."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from cache_uses import every_use
from gpt2_runtime import Session
from gpt2_runtime.engine import buffer_pool
from gpt2_runtime.engine.buffer_pool import MOST_FREE, Pool
from gpt2_runtime.engine.buffers import on_device
from gpt2_runtime.engine.packed_session import PackedSession
from gpt2_runtime.engine.serving_graph import POOLED_CAPACITY
from gpt2_runtime.engine.session import open_inference
from gpt2_runtime.providers import cuda_memory
from onnxruntime import OrtValue

SHAPE = (2, 2, 3, 4, 9, 8)


@pytest.fixture
def shared(cuda_runtime):
    return Pool()


def made(shared, shape=SHAPE):
    return shared.allocated(shape, np.float16, "cpu")


def test_the_next_cache_of_a_shape_gets_the_memory_cleared(shared):
    first = made(shared)
    address = first.allocation.address
    first.write(0, np.ones((2, 2, 4, 5, 8), np.float16))
    del first
    second = made(shared)
    assert second.allocation.address == address
    assert not second.read(0, 5).any()


def test_what_is_in_use_or_of_another_shape_is_left_alone(shared):
    first = made(shared)
    assert made(shared).allocation is not first.allocation
    assert made(shared, (2, 2, 1, 4, 9, 8)).allocation.shape == (2, 2, 1, 4, 9, 8)


def test_what_is_copied_is_of_the_pool_too(shared):
    copied = made(shared).of(2)
    allocation = copied.allocation
    del copied
    assert made(shared, (2, 2, 2, 4, 9, 8)).allocation is allocation


def test_few_wait_and_the_oldest_go(shared):
    held = [made(shared) for _ in range(MOST_FREE + 2)]
    allocations = [buffers.allocation for buffers in held]
    while held:
        del held[0]
    kept = [made(shared) for _ in range(MOST_FREE)]
    assert {buffers.allocation for buffers in kept} == set(allocations[2:])
    assert made(shared).allocation not in allocations


def test_one_that_another_thread_takes_meanwhile_is_not_taken_twice(shared):
    class Raced(list):
        def remove(self, allocation):
            raise ValueError

    free = on_device(SHAPE, np.float16, "cpu")
    shared._free = Raced([free])
    assert made(shared).allocation is not free


@pytest.fixture
def captured(folder, monkeypatch, shared):
    """A session that goes by all of the road of captured runs, but that on the CPU onnxruntime captures nothing."""
    session = Session.open(folder, threads=1, precision="fp16")
    monkeypatch.setattr(buffer_pool, "on_device", lambda shape, dtype, device: on_device(shape, dtype, "cpu"))
    path = session.bundle.graph("fp16", "serving")
    engine = PackedSession(partial(open_inference, path, session.provider, 1), [], packed=True, captures=True)
    return replace(session, opened=replace(session.opened, engine=engine, pool=shared))


def test_a_captured_run_is_of_any_length(captured, folder):
    """It learns the longest when it is captured, and never again."""
    found, expected = every_use(captured), every_use(Session.open(folder, threads=1, precision="fp16"))
    bound = [binding for each in captured.opened.engine._bindings.values() for binding in each.values()]
    assert {binding._captured for binding in bound} == {False, True}
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_cache_is_of_the_requested_capacity(captured):
    """Although the memory under it has more."""
    assert captured.empty_cache(capacity=20).capacity == 20
    assert captured.empty_cache(capacity=20).buffers.allocation.shape[4] == POOLED_CAPACITY + 1


def test_nothing_is_done_on_the_gpu_out_of_turn(captured, cuda_runtime, monkeypatch):
    """Else another thread's capture would fail."""
    turn, done = captured.opened.engine.turn, []
    for module, name in (
        (cuda_memory, "runtime"),
        (buffer_pool, "on_device"),
        (OrtValue, "ortvalue_from_shape_and_type"),
    ):
        right = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, name=name, right=right: done.append((name, turn.locked())) or right(*given)
        )
    every_use(captured)
    _, cache = captured.step([[5, 6, 7], [8]], captured.empty_cache(2))
    cache.copy().restore(1, cache.snapshot(0, 3)).reorder([1, 0, 1])
    assert {name for name, _ in done} == {"runtime", "on_device", "ortvalue_from_shape_and_type"}
    assert all(in_turn for _, in_turn in done)
