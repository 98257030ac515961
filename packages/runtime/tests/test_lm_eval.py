"""Without lm-eval its adapter says what is missing. What it does with it, is tested where it is: in tests/interop."""

import subprocess
import sys

import pytest

REMEDY = "pip install 'gpt2-runtime[cpu,lm-eval]'"
ABSENT = "import sys; sys.modules['lm_eval'] = None; "


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import gpt2_runtime.lm_eval", "ModuleNotFoundError: lm-eval cannot be imported ("),
        ("import runpy; runpy.run_module('gpt2_runtime.lm_eval', run_name='__main__')", "error: lm-eval cannot be im"),
    ],
)
def test_its_absence_is_reported_with_the_remedy(program, message):
    process = subprocess.run([sys.executable, "-c", ABSENT + program], capture_output=True, text=True)
    assert process.returncode == 1
    last = process.stderr.splitlines()[-1]
    assert last.startswith(message)
    assert last.endswith(REMEDY)
    assert (process.stderr.count("\n") == 1) == message.startswith("error")
