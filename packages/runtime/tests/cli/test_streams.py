"""What the command does with streams that are full, closed, or in another encoding."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from gpt2_runtime.cli.command import main; main()"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("command", ["inspect {}", "generate {} Dog", "--help", "batch --help", "--version"])
def test_an_output_that_is_full_is_reported_in_one_line(folder, command):
    # What cannot be written must not be reported a second time, by Python, when it empties its buffer at the end.
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [*COMMAND, *command.format(folder).split()], stdout=full, stderr=subprocess.PIPE, text=True, env=environment
        )
    assert process.returncode == 1
    message = "error: output cannot be written: No space left on device; free some space, or write it elsewhere\n"
    assert process.stderr == message


@pytest.mark.parametrize("command", ["generate {} -", "score {} -", "batch {} - answers.jsonl"])
def test_a_standard_input_that_is_closed_is_refused(folder, tmp_path, command):
    found = in_a_shell(command.format(folder), "<&-", tmp_path)
    assert (found.returncode, found.stderr) == (
        1,
        b"error: standard input is closed; pipe a text into it, or name a file\n",
    )


def test_a_standard_output_that_is_closed_is_refused(folder, tmp_path):
    found = in_a_shell(f"generate {folder} a", ">&-", tmp_path)
    assert (found.returncode, found.stderr) == (1, b"error: standard output is closed; open it, or send it to a file\n")


@pytest.mark.parametrize("command", ["generate {} a --seed 3 --max-new-tokens 60", "explain {} a", "inspect {}"])
def test_json_is_written_in_any_encoding(folder, tmp_path, command):
    found = [
        json.loads(in_a_shell(f"{command.format(folder)} --json", "", tmp_path, PYTHONIOENCODING=encoding).stdout)
        for encoding in ("ascii", "utf-8")
    ]
    for document in found:
        document.pop("timings", None)
    assert found[0] == found[1]


def test_a_text_that_the_output_cannot_hold_is_reported_in_one_line(folder, tmp_path):
    found = in_a_shell(f"generate {folder} a --seed 3 --max-new-tokens 60", "", tmp_path, PYTHONIOENCODING="latin-1")
    assert found.returncode == 1
    complaint = r"error: output is latin-1, which has no '\\ufffd'; set PYTHONUTF8=1 for UTF-8, or use --json .*"
    assert re.fullmatch(complaint, found.stderr.decode().strip())


def in_a_shell(command, streams, folder, **variables):
    program = [*COMMAND, *command.split()]
    return subprocess.run(
        f"{shlex.join(program)} {streams}", shell=True, capture_output=True, cwd=folder, env=os.environ | variables
    )
