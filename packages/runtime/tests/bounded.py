"""What an example of a fuzz test may take: ten seconds, and a gigabyte."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from gpt2_runtime.diagnostics.process_memory import Memory, peak_rss

LONGEST = timedelta(seconds=10)
MOST_BYTES = 10**9

RESET = Path("/proc/self/clear_refs")


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Fails where what runs within it has held a gigabyte more than there was before, however short a time.

    >>> with bounded_memory():
    ...     _ = bytes(10**6)
    """
    before = Memory.now()
    try:
        RESET.write_text("5")  # so Linux forgets the peak that was before
    except OSError:  # another system, or one that does not let: there is nothing to measure by
        before = None
    yield
    if before is not None and (peak := peak_rss()) is not None:
        more = peak - before.own - before.mapped
        assert more < MOST_BYTES, f"{more:,} bytes more were held for a while"
