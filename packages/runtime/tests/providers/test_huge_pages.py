"""Memory goes to huge pages where all of it is in use, keeps its content, and nothing else is touched."""

import ctypes
import mmap
import os
import sys
import threading

import numpy as np
import pytest
from gpt2_runtime.providers import huge_pages
from gpt2_runtime.providers.huge_pages import HUGE, anonymous, collapse, on_huge_pages, without

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has huge pages that a program can request")
SIZE = 16 * HUGE


def unwritten(size=SIZE):
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def written(size=SIZE):
    """Memory in use: an array, and the span that it is in."""
    array = unwritten(size)
    # In place: what a larger temporary leaves on the heap would be new memory too.
    array.reshape(-1, 256)[:] = np.arange(256, dtype=np.uint8)
    return array, (array.ctypes.data, array.ctypes.data + size)


@pytest.fixture(scope="module")
def _collapses():
    array, span = written()
    if not collapse([span]) or not len(array):
        pytest.skip("this kernel does not collapse memory to huge pages")


@pytest.mark.usefixtures("_collapses")
def test_memory_in_use_is_moved_and_keeps_its_content(monkeypatch):
    monkeypatch.setattr(huge_pages, "GRACE", 60)  # a machine whose memory is in pieces takes its time
    libc, answers = huge_pages._libc(), []

    class Complaint:
        mincore = libc.mincore

        @staticmethod
        def madvise(*given):
            answers.append(libc.madvise(*given))
            return answers[-1]

    monkeypatch.setattr(huge_pages, "_libc", lambda: Complaint)
    array, span = written()
    before = array.copy()
    moved = collapse([span])
    assert SIZE - 2 * HUGE <= HUGE * len(answers) <= SIZE  # what is not aligned at its ends stays
    assert moved == HUGE * answers.count(0)  # the system may run out of huge pages
    assert moved
    np.testing.assert_array_equal(array, before)


@pytest.mark.usefixtures("_collapses")
def test_memory_that_was_never_written_stays_unused():
    array = unwritten()
    assert collapse([(array.ctypes.data, array.ctypes.data + SIZE)]) == 0


@pytest.mark.usefixtures("_collapses")
def test_memory_that_is_gone_is_passed_over():
    array, span = written()
    del array
    assert collapse([span, (0, HUGE)]) == 0


def test_only_what_is_new_and_large_is_moved_and_by_a_thread(monkeypatch):
    moved, priorities = [], []

    def move(spans):
        moved.append(spans)
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    monkeypatch.setattr(huge_pages, "collapse", move)
    monkeypatch.setattr(huge_pages, "LEAST", SIZE // 2)
    old, old_span = written()
    with on_huge_pages():
        new, new_span = written()
    with on_huge_pages():
        small, _ = written(HUGE)
    for thread in threading.enumerate():
        if thread.name == huge_pages.NAME:
            thread.join()
    (spans,) = moved
    assert priorities == [19]
    assert os.getpriority(os.PRIO_PROCESS, 0) < 19
    assert without([new_span], spans) == []
    assert without([old_span], spans) == [old_span]
    assert len(old) + len(new) + len(small)  # alive until here


def test_where_the_system_does_not_say_there_is_nothing_to_move(tmp_path, monkeypatch):
    monkeypatch.setattr(huge_pages, "MAPS", tmp_path / "maps")
    assert anonymous() == []
    with on_huge_pages():
        pass


def test_files_and_shared_memory_are_not_its_own(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    of_file = np.memmap(path, np.uint8, mode="r+")
    shared = np.frombuffer(mmap.mmap(-1, SIZE), np.uint8)
    for array in (of_file, shared):
        span = (array.ctypes.data, array.ctypes.data + SIZE)
        assert without([span], anonymous()) == [span]


def test_a_slow_system_is_left_in_peace(monkeypatch):
    class Slow:
        moved = 0

        def mincore(self, place, size, resident):
            ctypes.memset(resident, 1, HUGE // huge_pages.PAGE)
            return 0

        def madvise(self, place, size, advice):
            self.moved += 1
            clock[0] += 0.01  # seconds for 2 MB: 0.2 GB/s
            return 0

    clock, slow = [0.0], Slow()
    monkeypatch.setattr(huge_pages, "thread_time", lambda: clock[0])
    monkeypatch.setattr(huge_pages, "_libc", lambda: slow)
    assert collapse([(0, 1000 * HUGE)]) == slow.moved * HUGE
    assert 15 < slow.moved < 20
    monkeypatch.setattr(huge_pages, "SLOWEST", 100_000_000)
    assert collapse([(0, 1000 * HUGE)]) == 1000 * HUGE
