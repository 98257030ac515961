"""Finds out whether there is a GPU."""

import shutil
import subprocess


def gpus() -> str:
    """nvidia-smi's list, one line per GPU; empty if there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    result = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else ""
