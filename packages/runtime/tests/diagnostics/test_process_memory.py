import mmap
import sys

import numpy as np
import pytest
from gpt2_runtime.diagnostics import process_memory
from gpt2_runtime.diagnostics.process_memory import Memory, peak_rss

MEGABYTE = 1_000_000
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports what memory is for")


@on_linux
def test_what_is_written_is_its_own():
    before = Memory.now()
    # Pages of their own: np.ones may get some that another test has freed.
    held = np.frombuffer(mmap.mmap(-1, 50 * MEGABYTE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    held[:] = 1
    after = Memory.now()
    assert 40 * MEGABYTE < after.own - before.own < 60 * MEGABYTE
    assert held[0] == 1


@on_linux
def test_what_is_mapped_from_a_file_is_not_its_own(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 50 * MEGABYTE)
    before = Memory.now()
    mapped = np.memmap(path, np.uint8, mode="r")
    mapped.max()
    after = Memory.now()
    assert 40 * MEGABYTE < after.mapped - before.mapped < 60 * MEGABYTE
    assert after.own - before.own < 10 * MEGABYTE


@on_linux
def test_the_peak_stays_when_memory_is_freed():
    peak = peak_rss()
    np.ones(max(0, peak - Memory.now().own) + 50 * MEGABYTE, np.uint8)
    assert peak_rss() > peak + 20 * MEGABYTE


def test_without_the_systems_figures_nothing_is_made_up(tmp_path, monkeypatch):
    monkeypatch.setattr(process_memory, "STATUS", tmp_path / "status")
    assert Memory.now() is None
    assert peak_rss() > 10 * MEGABYTE  # getrusage's
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows has none
    assert peak_rss() is None
