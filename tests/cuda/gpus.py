"""Whether there is a GPU for the tests that need one."""

import shutil
import subprocess


def gpus() -> str:
    """What nvidia-smi lists, one line a GPU; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return found.stdout if found.returncode == 0 else ""
