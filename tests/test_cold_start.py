"""From the command to its first token: what `gpt2-runtime generate` loads, and its time after imports."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# The command in a clean interpreter, after its dependencies are imported. Processor time, not wall time, so that a busy
# machine does not count.
PROGRAM = """
import json, sys, time
import numpy, onnxruntime, tiktoken, click
start = time.process_time()
from gpt2_runtime.cli.command import main
main(sys.argv[1:], standalone_mode=False)
seconds = time.process_time() - start
files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
loaded = {name.partition(".")[0] for name, file in files.items() if "site-packages" in file}
slow = {"importlib.metadata", "http.client", "ssl", "asyncio", "statistics", "multiprocessing", "unittest"}
print(json.dumps({"seconds": seconds, "loaded": sorted(loaded), "slow": sorted(slow & files.keys())}))
"""


@pytest.fixture(scope="module")
def report(demo_folder: Path) -> dict[str, Any]:
    options = ["generate", str(demo_folder), "ROMEO:", "--max-new-tokens", "1", "--threads", "1"]
    # The median of three: the first may read cold files.
    runs = [
        subprocess.run([sys.executable, "-c", PROGRAM, *options], capture_output=True, check=True) for _ in range(3)
    ]
    reports = [json.loads(run.stdout.splitlines()[-1]) for run in runs]
    return sorted(reports, key=lambda run: run["seconds"])[1]


def test_the_demo_generates_within_a_second_of_its_imports(report: dict[str, Any]) -> None:
    assert report["seconds"] < 1


def test_nothing_unneeded_is_loaded(report: dict[str, Any]) -> None:
    ours = {"gpt2_runtime"} & set(report["loaded"])  # not in site-packages when installed editable
    assert set(report["loaded"]) - ours - {"_distutils_hack", "regex"} == {"numpy", "onnxruntime", "tiktoken", "click"}
    assert report["slow"] == []
