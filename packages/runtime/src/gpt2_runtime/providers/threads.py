"""How many threads one operator may use: those that affinity and quota let this process use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from gpt2_runtime.arguments import check_integer

MAX_THREADS = 1024


def choose_threads(threads: int | None = None) -> int:
    """`threads` where it is 1 to 1024, and for None the number that this process may really use.

    >>> choose_threads(3)
    3
    >>> choose_threads() >= 1
    True
    """
    if threads is None:
        quota = cpu_quota()
        usable = usable_cpus()
        return usable if quota is None else max(1, min(usable, math.ceil(quota)))
    check_integer("threads", threads, 1, MAX_THREADS)
    return threads


def usable_cpus() -> int:
    """How many CPUs the scheduler lets this process run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The CPU time per second that the control groups (v1 or v2) of this process grant; None without a limit.

    A container with a quota of 2 on a machine of 64 cores sees 64 CPUs; 64 threads there are many times slower
    than 2, because all of them stand still once the quota is spent.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return None
    quotas = [quota for line in lines for quota in _quotas(*line.split(":", 2), mount=mount)]
    return min(quotas, default=None)


def _quotas(hierarchy: str, controllers: str, group: str, *, mount: Path) -> Iterator[float]:
    """The quotas of a group and of all groups above it: each one applies."""
    names: tuple[str, ...]
    if hierarchy == "0":
        root, names = mount, ("cpu.max",)
    elif "cpu" in controllers.split(","):
        root, names = mount / controllers, ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    else:
        return
    path = root / group.strip("/")
    for folder in (path, *path.parents):
        if not folder.is_relative_to(root):
            break
        # Inside a container the group's path is the host's and is not there, but the mount's root is.
        if all((folder / name).is_file() for name in names):
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            if quota not in ("max", "-1"):
                yield int(quota) / int(period)
