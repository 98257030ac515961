"""The fuzz tests with three times the examples."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["test_fuzz_api.py", "test_fuzz_cli.py"])
def test_three_times_the_examples_find_nothing(name):
    environment = os.environ | {"GPT2_RUNTIME_FUZZ": "3"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(Path(__file__).parent / name)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-10_000:]
