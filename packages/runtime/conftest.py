"""What examples in docstrings and tests share: the folder that gpt2-export wrote for a tiny random GPT-2."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from gpt2_runtime import Session
from gpt2_runtime.providers import telemetry

TINY = Path(__file__).parent / "tests" / "data" / "tiny"

telemetry.switch_off()  # some tests import onnxruntime themselves

hypothesis.settings.register_profile("patient", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("patient")

# Each worker on a core of its own: the threads of two of them wait by spinning, each where the other would compute.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

collect_ignore = ["tests/data/make_tiny.py"]  # needs gpt2-export, which the runtime's tests do without
if find_spec("lm_eval") is None:
    collect_ignore.append("src/gpt2_runtime/lm_eval.py")  # an extra; tests/interop has it


@pytest.fixture(scope="session")
def folder() -> Path:
    return TINY


@pytest.fixture(scope="session")
def session(folder: Path) -> Session:
    return Session.open(folder, threads=1)


@pytest.fixture(autouse=True)
def _examples(doctest_namespace: dict[str, Any], folder: Path, session: Session) -> None:
    doctest_namespace |= {"folder": folder, "session": session}
