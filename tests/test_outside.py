"""Nothing leaves the machine, and only files the user names are written: each command, watched from outside."""

import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import watch
from watch import Seen, Watched

PACKAGES = Path(__file__).parent.parent / "packages"
TINY = PACKAGES / "runtime" / "tests" / "data" / "tiny"

pytestmark = pytest.mark.skipif(not (watch.may_trace() or watch.may_filter()), reason="neither strace nor seccomp here")

# Run in a directory with the folder `tiny`, which is also a source; with what each command leaves there.
RUNTIME = {
    "generate": (["generate", "tiny", "The dog", "--max-new-tokens", "4"], []),
    "generate with beams": (["generate", "tiny", "The dog", "--num-beams", "2", "--max-new-tokens", "4"], []),
    "generate int8": (["generate", "tiny", "The dog", "--precision", "int8", "--max-new-tokens", "4"], []),
    "batch": (["batch", "tiny", "prompts.jsonl", "answers.jsonl"], ["answers.jsonl"]),
    "score": (["score", "tiny", "text.txt"], []),
    "explain": (["explain", "tiny", "The dog", "--html", "page.html"], ["page.html"]),
    "inspect": (["inspect", "tiny", "--check-hashes", "--load"], []),
    "bench": (["bench", "tiny", "--context", "4", "--batch", "1", "--rounds", "1"], []),
}
EXPORT = {
    "freeze": (["freeze", "tiny", "out"], ["out"]),
    "inspect": (["inspect", "tiny", "--check-hashes"], []),
    "push --dry-run": (["push", "tiny", "you/gpt2", "--dry-run"], []),
}
NIGHTLY = {
    "make": (["make", "tiny", "out", "--offline"], ["out"]),
    "make demo": (["make", "demo", "out"], ["out"]),
    "make with precisions": (["make", "tiny", "out", "--precision", "fp32,int8"], ["out"]),
    "onnx": (["onnx", "tiny"], []),
    "verify": (["verify", "tiny"], []),
    "quantize": (["quantize", "tiny", "--precision", "int8", "--max-ppl-increase", "1000"], []),
}

# Both packages in a long-lived process: the collector's name is looked up some 9 seconds after onnxruntime's import.
LIFE = """
import sys, time
from pathlib import Path
from gpt2_export.verification import backends
from gpt2_runtime import TextGenerator

generator = TextGenerator.open("tiny", threads=1)
generator.complete("The dog", max_new_tokens=2)
backends.graph("portable", Path("tiny"))
time.sleep(float(sys.argv[1]))
"""
THREAD = "import socket, threading; t = threading.Thread(target=socket.socket); t.start(); t.join()"
CHILD = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {THREAD!r}]).returncode)"

Start = Callable[..., Watched]


def script(package: str) -> list[str]:
    """A package's command, as its console script starts it."""
    project = tomllib.loads((PACKAGES / package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"][f"gpt2-{package}"].partition(":")
    return [sys.executable, "-c", f"import sys; from {module} import {function}; sys.exit({function}())"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a command beside a copy of the folder `tiny`, prompts and a text."""

    def start(*command: str, name: str = "it", **variables: str) -> Watched:
        work = tmp_path / name / "work"
        work.mkdir(parents=True)
        shutil.copytree(TINY, work / "tiny")
        (work / "prompts.jsonl").write_text('{"prompt": "The dog", "max_new_tokens": 4}\n')
        (work / "text.txt").write_text("The dog said to the cat: I am a dog, and you are a cat.")
        return Watched(command, tmp_path / name, **variables)

    return start


def unexpected(outcome: Seen, outputs: list[str]) -> list[str]:
    """What a command did beyond its task."""
    allowed = {f"work/{path}" for path in ("tiny", "prompts.jsonl", "text.txt", *outputs)}
    left = {path for path in outcome.left if not any(path == each or path.startswith(f"{each}/") for each in allowed)}
    return sorted(left | outcome.written | outcome.sockets)


@pytest.mark.parametrize("case", RUNTIME)
def test_a_command_of_the_runtime_keeps_to_itself(case: str, start: Start) -> None:
    arguments, outputs = RUNTIME[case]
    outcome = start(*script("runtime"), *arguments).seen()
    assert outcome.code == 0, outcome.output
    assert unexpected(outcome, outputs) == []


@pytest.mark.parametrize("case", [*EXPORT, *(pytest.param(case, marks=pytest.mark.nightly) for case in NIGHTLY)])
def test_a_command_of_the_export_keeps_to_itself(case: str, start: Start) -> None:
    arguments, outputs = (EXPORT | NIGHTLY)[case]
    outcome = start(*script("export"), *arguments).seen()
    assert outcome.code == 0, outcome.output
    assert unexpected(outcome, outputs) == []


@pytest.mark.parametrize("seconds", [12, pytest.param(60, marks=pytest.mark.nightly)])
def test_a_long_lived_process_keeps_to_itself_unless_telemetry_is_on(seconds: int, start: Start) -> None:
    """The second run proves that the first one's silence is real."""
    life = [sys.executable, "-c", LIFE, str(seconds)]
    silent, reporting = start(*life, name="silent"), start(*life, name="reporting", ORT_DISABLE_TELEMETRY="0")
    outcome = silent.seen()
    assert outcome.code == 0, outcome.output
    assert unexpected(outcome, []) == []
    reported = unexpected(reporting.seen(), [])
    assert any("onnxruntime" in each for each in reported), (
        "this onnxruntime reports nothing: is the switch still needed?"
    )
    assert not watch.may_trace() or any(each.startswith("AF_INET") for each in reported), reported


@pytest.mark.parametrize("code", [THREAD, CHILD], ids=["thread", "child"])
@pytest.mark.parametrize("traced", [True, False], ids=["strace", "seccomp"])
def test_a_socket_of_another_thread_or_process_is_seen(
    code: str, traced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (watch.may_trace() if traced else watch.may_filter()):
        pytest.skip("not on this system")
    monkeypatch.setattr(watch, "may_trace", lambda: traced)
    outcome = Watched([sys.executable, "-c", code], tmp_path).seen()
    if not traced and code == CHILD:
        assert outcome.code != 0, "the child was ended"
    else:
        assert outcome.sockets


def test_a_file_anywhere_is_seen(tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    code = f"import os; open('in work', 'w'); open({elsewhere!r}, 'w'); os.mkdir(os.environ['HOME'] + '/.cache')"
    outcome = Watched([sys.executable, "-c", code], tmp_path / "it").seen()
    assert outcome.left == {"work/in work", "home/.cache"}
    assert not watch.may_trace() or outcome.written == {elsewhere}
