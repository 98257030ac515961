"""Describes the GPU to measure, from nvidia-smi."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping

FIELDS = "name,memory.total,driver_version"


class NoGpuError(Exception):
    """There is no GPU to measure; the message says why."""


def find_gpu(environment: Mapping[str, str] = os.environ) -> str:
    """Name, memory, driver and CUDA of the GPU that a program uses by default.

    Raises:
        NoGpuError: there is none.
    """
    chosen = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    query = [f"--query-gpu={FIELDS}", "--format=csv,noheader", *(f"--id={name}" for name in chosen[:1])]
    line = _nvidia_smi(query, environment).partition("\n")[0]
    if len(line.split(", ")) != len(FIELDS.split(",")):
        raise NoGpuError(f"nvidia-smi says: {line or 'nothing'}")
    return described(line, _nvidia_smi([], environment))


def described(line: str, page: str) -> str:
    """
    Args:
        line: the fields, as nvidia-smi lists them.
        page: its output without arguments, the only place with the driver's CUDA version.

    >>> described("NVIDIA L4, 23034 MiB, 580.65.06", "| Driver Version: 580.65.06     CUDA Version: 13.0     |")
    'NVIDIA L4, 23034 MiB, driver 580.65.06, CUDA 13.0'
    """
    name, memory, driver = line.split(", ")
    cuda = re.search(r"CUDA[ \w]* Version: *([\d.]+)", page)
    return ", ".join([name, memory, f"driver {driver}", *([f"CUDA {cuda[1]}"] if cuda else [])])


def _nvidia_smi(arguments: list[str], environment: Mapping[str, str]) -> str:
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is None:
        raise NoGpuError("no nvidia-smi on the PATH, which comes with NVIDIA's driver")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    output = (done.stdout or done.stderr).strip()
    if done.returncode:
        raise NoGpuError(f"nvidia-smi says: {output.partition(chr(10))[0] or done.returncode}")
    return output
