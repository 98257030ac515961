"""How much memory this process holds: its own, and pages of files that the system may take back."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Resident memory, in bytes.

    Attributes:
        own: what this process has written; it is in use until it is freed.
        mapped: pages of files, shared between processes, dropped and read again as the system sees fit.
    """

    own: int
    mapped: int

    @classmethod
    def now(cls) -> Memory | None:
        """As it is; None where the system does not tell."""
        status = _status()
        if status is None:
            return None
        return cls(own=status["RssAnon"], mapped=status["RssFile"] + status["RssShmem"])


def peak_rss() -> int | None:
    """The most bytes that were ever resident; None where the system does not tell.

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
    """What Linux tells of this process, in bytes; None elsewhere."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in lines)
        if value.endswith(" kB")
    }
