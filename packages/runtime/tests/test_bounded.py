"""The bound of memory is one: what holds more for a moment fails."""

import bounded
import pytest
from bounded import RESET, bounded_memory


@pytest.mark.skipif(not RESET.exists(), reason="no /proc/self/clear_refs on this system")
def test_what_is_held_for_a_moment_counts(monkeypatch):
    monkeypatch.setattr(bounded, "MOST_BYTES", 20_000_000)
    with bounded_memory():
        assert len(b"x" * 1_000_000) == 1_000_000
    with pytest.raises(AssertionError, match="bytes more were held for a while"), bounded_memory():
        assert len(b"x" * 60_000_000) == 60_000_000
