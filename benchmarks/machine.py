"""Where and when a run was made; without that a figure means nothing."""

import os
import platform
from dataclasses import dataclass
from datetime import date
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that the figures depend on.

    >>> str(Machine(date="2026-11-22", cpu="AMD EPYC", cores=2, memory_gb=24, system="Linux 6.8", python="3.11.7"))
    '2026-11-22, AMD EPYC, 2 cores, 24 GB, Linux 6.8, Python 3.11.7'

    Attributes:
        gpu: the GPU's name, memory, driver and CUDA, if it was measured on one.
    """

    date: str
    cpu: str
    cores: int
    memory_gb: int
    system: str
    python: str
    gpu: str | None = None

    @classmethod
    def this(cls, gpu: str | None = None) -> "Machine":
        """This machine, today."""
        cpu = _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
        memory = _field("/proc/meminfo", "MemTotal") or "0 kB"
        return cls(
            date=date.today().isoformat(),
            cpu=cpu,
            cores=len(os.sched_getaffinity(0)),
            memory_gb=round(int(memory.split()[0]) / 2**20),
            system=f"{platform.system()} {platform.release().partition('-')[0]}",
            python=platform.python_version(),
            gpu=gpu,
        )

    def __str__(self) -> str:
        host = f"{self.cpu}, {self.cores} cores, {self.memory_gb} GB, {self.system}, Python {self.python}"
        return ", ".join(part for part in (self.date, self.gpu, host) if part)

    @property
    def short(self) -> str:
        """One line for the chart: the GPU if there is one, else the host; the table has both."""
        return f"{self.date}, {self.gpu}" if self.gpu else str(self)


def _field(file: str, name: str) -> str | None:
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return None
