"""Weights on huge pages: a decode step reads all of them, and 2 MB a page instead of 4 KB a page spares the lookups.

Linux alone can do it for memory that is allocated already (MADV_COLLAPSE, since 6.1); elsewhere nothing happens. It
changes where weights lie and never what they are. To move them takes about as long as to load them, so that a thread
does it beside the next steps, with what time of the processor these leave.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread, get_native_id
from time import thread_time

MAPS = Path("/proc/self/maps")
PAGE, HUGE = 4096, 2 * 1024 * 1024
MADV_COLLAPSE = 25
LEAST = 64 * 1024 * 1024  # below it, a processor's tables reach far enough
# Bytes moved in a second of work, after a moment's grace, below which it is given up: where memory is in small pieces
# the system first has to bring them together.
SLOWEST, GRACE = 500_000_000, 0.1
LOWEST = 19  # of a thread's priorities
NAME = "huge pages"  # of the thread

Span = tuple[int, int]
"""(start, end) of memory, in addresses."""


@contextmanager
def on_huge_pages() -> Iterator[None]:
    """What is allocated inside, and still is at the end, then goes to huge pages as far as the system lets it.

    >>> with on_huge_pages():
    ...     weights = bytes(100)
    """
    before = anonymous()
    yield
    new = without(anonymous(), before)
    if sum(end - start for start, end in new) >= LEAST:
        Thread(target=_collapse_last, args=(new,), name=NAME, daemon=True).start()


def anonymous() -> list[Span]:
    """The anonymous memory of this process, in ascending order; none where the system does not show it."""
    try:
        lines = MAPS.read_text().splitlines()
    except OSError:  # not Linux
        return []
    private = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p 0+ 00:00 0\s*(\[heap\])?$")
    return [(int(m[1], 16), int(m[2], 16)) for m in map(private.match, lines) if m]


def without(spans: list[Span], taken: list[Span]) -> list[Span]:
    """What of `spans` is in none of `taken`; both ascend.

    >>> without([(0, 10), (20, 30)], [(2, 4), (8, 22)])
    [(0, 2), (4, 8), (22, 30)]
    """
    left = []
    for start, end in spans:
        for used_start, used_end in taken:
            if start < used_end and used_start < end:
                if start < used_start:
                    left.append((start, used_start))
                start = min(used_end, end)
        if start < end:
            left.append((start, end))
    return left


def collapse(spans: list[Span]) -> int:
    """Moves the spans to huge pages, one by one; the bytes that are on them now.

    A place that is not wholly in use stays as it is: a huge page there would take memory that nothing needs.
    """
    libc = _libc()
    resident = ctypes.create_string_buffer(HUGE // PAGE)
    collapsed, begin = 0, thread_time()
    for start, end in spans:
        for place in range(-(-start // HUGE) * HUGE, end - HUGE + 1, HUGE):
            if libc.mincore(place, HUGE, resident) == 0 and all(page & 1 for page in resident.raw):
                # Refused by an older kernel, or where huge pages have run out: then it stays as it is.
                collapsed += HUGE * (libc.madvise(place, HUGE, MADV_COLLAPSE) == 0)
            if thread_time() - begin > GRACE + collapsed / SLOWEST:
                return collapsed
    return collapsed


def _collapse_last(spans: list[Span]) -> None:
    """Collapses in a thread that everything else goes before."""
    os.setpriority(os.PRIO_PROCESS, get_native_id(), LOWEST)
    collapse(spans)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    return libc
