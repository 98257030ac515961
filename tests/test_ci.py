"""CI's script in a clone anywhere: it finds GPT-2's vocabulary beside the clone, or those tests skip."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent.parent / ".ci" / "run"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a bash script")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with only the script, and a python3.11 that prints its arguments and the vocabulary's path."""
    (tmp_path / "clone" / ".ci").mkdir(parents=True)
    shutil.copy(RUN, tmp_path / "clone" / ".ci" / "run")
    python = tmp_path / "bin" / "python3.11"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$*, ${GPT2_TOKENIZER_DIR-unset}"\n')
    python.chmod(0o755)
    return tmp_path / "clone"


def ran(clone: Path, **environment: str) -> list[str]:
    """The output of its two commands."""
    path = f"{clone.parent / 'bin'}{os.pathsep}{os.environ['PATH']}"
    named = {name: value for name, value in os.environ.items() if name != "GPT2_TOKENIZER_DIR"} | environment
    done = subprocess.run([clone / ".ci" / "run"], env=named | {"PATH": path}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def commands(where: object) -> list[str]:
    return [f"-m pip install tox, {where}", f"-m tox, {where}"]


def test_without_a_vocabulary_none_is_named(clone: Path) -> None:
    assert ran(clone) == ran(clone, GPT2_TOKENIZER_DIR="") == commands("unset")


def test_the_vocabulary_beside_the_clone_is_named(clone: Path) -> None:
    beside = clone.parent / "shared" / "tokenizer"
    beside.mkdir(parents=True)
    assert ran(clone) == commands(beside)


def test_an_explicit_vocabulary_is_kept(clone: Path, tmp_path: Path) -> None:
    assert ran(clone, GPT2_TOKENIZER_DIR=str(tmp_path)) == commands(tmp_path)
