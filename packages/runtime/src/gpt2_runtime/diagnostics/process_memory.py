"""How much memory this process holds: its own, and file pages that the system may reclaim."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Resident memory, in bytes.

    Attributes:
        own: memory that this process has written; in use until it is freed.
        mapped: file pages, shared between processes; the system may drop and reread them at any time.
    """

    own: int
    mapped: int

    @classmethod
    def now(cls) -> Memory | None:
        """The current memory; None if the system does not report it."""
        status = _status()
        if status is None:
            return None
        return cls(own=status["RssAnon"], mapped=status["RssFile"] + status["RssShmem"])


def peak_rss() -> int | None:
    """The peak resident memory in bytes; None if the system does not report it.

    >>> peak_rss() is None or peak_rss() > 1_000_000
    True
    """
    status = _status()
    if status is not None:
        return status["VmHWM"]  # getrusage would count the program that started this one
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kibibytes elsewhere


def _status() -> dict[str, int] | None:
    """Linux's figures for this process, in bytes; None on other systems."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in lines)
        if value.endswith(" kB")
    }
