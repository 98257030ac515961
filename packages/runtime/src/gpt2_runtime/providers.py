"""Where and on how many threads a graph runs: both are chosen here, explicitly, or refused."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from gpt2_runtime import telemetry
from gpt2_runtime.cuda import load_cuda
from gpt2_runtime.errors import ProviderError, SettingError, shown

MAX_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class Provider:
    """An execution provider of onnxruntime and the device that its tensors live on."""

    name: str
    execution_provider: str
    device: str
    options: Mapping[str, str] = field(default_factory=dict)


PROVIDERS = {
    "cpu": Provider(name="cpu", execution_provider="CPUExecutionProvider", device="cpu"),
    # onnxruntime multiplies in TF32 on CUDA unless told otherwise: ten bits of mantissa under the name of float32.
    "cuda": Provider(name="cuda", execution_provider="CUDAExecutionProvider", device="cuda", options={"use_tf32": "0"}),
}


def load_onnxruntime() -> ModuleType:
    """The onnxruntime module; ProviderError with the remedy where neither extra of this package is installed."""
    telemetry.switch_off()
    try:
        import onnxruntime
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Ctrl-C within it, of which its C++ makes this
            raise KeyboardInterrupt from error
        remedy = "pip install 'gpt2-runtime[cpu]' (or [cuda])"
        raise ProviderError(f"onnxruntime cannot be imported ({error}); {remedy}") from error
    module: ModuleType = onnxruntime
    return module


def choose_provider(name: str) -> Provider:
    """The provider of that name, which the installed onnxruntime has been built with and finds its libraries for.

    Raises:
        ProviderError: an unknown name, one that this onnxruntime lacks, or a library that is missing. CPU is never
            taken in its place.

    >>> choose_provider("cpu").execution_provider
    'CPUExecutionProvider'
    """
    if not isinstance(name, str) or name not in PROVIDERS:
        raise ProviderError(f"provider is {shown(name)}, must be one of {', '.join(PROVIDERS)}")
    provider = PROVIDERS[name]
    available = load_onnxruntime().get_available_providers()
    if provider.execution_provider not in available:
        raise ProviderError(
            f"provider {name} is not in this onnxruntime, which has {_names(available)}; {_remedy(name)}"
        )
    if name == "cuda":
        load_cuda(load_onnxruntime())
    return provider


def check_provider(provider: Provider, active: list[str]) -> None:
    """Refuses a session that onnxruntime has quietly opened on something else than `provider`."""
    if provider.execution_provider not in active:
        raise ProviderError(
            f"provider {provider.name} could not start, onnxruntime fell back to {_names(active)}; "
            f"its libraries or the device are missing (check the driver, CUDA and cuDNN), or pass --provider cpu"
        )


def _names(providers: list[str]) -> str:
    return ", ".join(name.removesuffix("ExecutionProvider") for name in providers)


def _remedy(name: str) -> str:
    # The two wheels install the same module: the one on top of the other leaves a broken mixture.
    other = "onnxruntime" if name == "cuda" else "onnxruntime-gpu"
    return f"pip uninstall {other}, then pip install 'gpt2-runtime[{name}]'"


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
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
        raise SettingError(f"threads is {shown(threads)}, must be an integer from 1 to {MAX_THREADS}")
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
    """The quotas of a group and of all groups above it, each of which holds."""
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
