"""Whenever Ctrl-C or TERM comes, the command ends at once, with one line and 130 or 143; what is written is whole."""

import ast
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import gpt2_runtime
import pytest
from interrupted import interrupted

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

ANSWERS = {signal.SIGINT: (130, ("interrupted",)), signal.SIGTERM: (143, ("terminated",))}
GENERATE = ["generate", "tiny", "The dog", "--max-new-tokens", "20", "--overflow", "slide"]


@pytest.fixture
def place(folder: Path, tmp_path: Path) -> Path:
    """A working directory that has the folder `tiny`."""
    shutil.copytree(folder, tmp_path / "tiny")
    return tmp_path


def sweep(arguments: list[str], place: Path, delays: list[float], times: int = 1) -> int:
    """Sends each signal after each delay; how often the command had not ended before."""
    answered = 0
    for number, (code, lines) in ANSWERS.items():
        for delay in delays:
            ended = interrupted("gpt2_runtime", arguments, number, delay, place=place, times=times)
            if (ended.code, ended.lines) != (0, ()):  # so short a command may be done
                assert (ended.code, ended.lines) == (code, lines), f"{number.name} after {delay} s"
                answered += 1
    return answered


def test_a_signal_is_answered_while_everything_is_imported_and_run(place: Path) -> None:
    assert sweep(GENERATE, place, [0, 0.01, 0.02, 0.04, 0.08, 0.16]) >= 6


def test_signals_in_a_row_are_answered_once(place: Path) -> None:
    assert sweep(GENERATE, place, [0, 0.05], times=3) >= 2


@pytest.mark.nightly
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "arguments",
    [
        GENERATE,
        ["--version"],
        ["score", "tiny", "text.txt"],
        ["explain", "tiny", "The dog", "--html", "page.html", "--force"],
        ["inspect", "tiny", "--check-hashes"],
        ["bench", "tiny", "--context", "4", "--batch", "1", "--rounds", "1"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_signal_is_answered_at_every_moment(arguments: list[str], times: int, place: Path) -> None:
    (place / "text.txt").write_text("The dog said to the cat: I am a dog, and you are a cat.")
    assert sweep(arguments, place, [step / 100 for step in range(41)], times=times) > 0
    assert not [path.name for path in place.iterdir() if "partial" in path.name]


@pytest.mark.parametrize("number", ANSWERS)
def test_what_a_batch_has_written_stays_and_the_same_command_finishes_it(number: signal.Signals, place: Path) -> None:
    prompts = [{"prompt": "The dog", "max_new_tokens": 20} for _ in range(200)]
    (place / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    # It sends itself the signal once some answers are there.
    more = f"""
import gpt2_runtime.batch_file.file as jobs
plain, written = jobs._write, []
def write(*arguments):
    plain(*arguments)
    written.append(1)
    if len(written) == 20:
        os.kill(os.getpid(), {int(number)})
jobs._write = write
"""
    command = ["batch", "tiny", "prompts.jsonl", "answers.jsonl"]
    ended = interrupted("gpt2_runtime", command, None, place=place, more=more)
    assert (ended.code, ended.lines) == ANSWERS[number]
    assert len((place / "answers.jsonl").read_text().splitlines()) == 20
    (again,) = interrupted("gpt2_runtime", command, None, place=place).lines
    assert again.startswith("180 answered")
    assert again.endswith("20 already done, 0 failed")


def test_a_page_that_is_being_written_is_finished_first(place: Path) -> None:
    more = f"""
import pathlib
plain = pathlib.Path.replace
def replace(*arguments):
    os.kill(os.getpid(), {int(signal.SIGINT)})
    plain(*arguments)
pathlib.Path.replace = replace
"""
    command = ["explain", "tiny", "The dog", "--html", "page.html"]
    ended = interrupted("gpt2_runtime", command, None, place=place, more=more)
    assert (ended.code, ended.lines) == ANSWERS[signal.SIGINT]
    assert (place / "page.html").read_text().rstrip().endswith("</html>")
    assert sorted(path.name for path in place.iterdir()) == ["page.html", "tiny"]


def test_an_error_that_a_library_makes_of_everything_does_not_hide_it(place: Path) -> None:
    more = f"""
class Library:
    def __del__(self):
        os.kill(os.getpid(), {int(signal.SIGTERM)})
try:
    Library()
except BaseException:
    pass
"""
    ended = interrupted("gpt2_runtime", GENERATE, None, place=place, more=more)
    assert (ended.code, ended.lines) == ANSWERS[signal.SIGTERM]


def test_what_comes_when_all_is_done_changes_nothing(place: Path) -> None:
    """As Python ends, it takes the handlers away: an object that goes then sends the signal."""
    more = """
import posix
class Last:
    kill, pid = posix.kill, os.getpid()
    def __del__(self):
        self.kill(self.pid, 15)
sys.last = Last()
"""
    ended = interrupted("gpt2_runtime", ["--version"], None, place=place, more=more)
    assert (ended.code, ended.lines) == (0, ())


def test_what_is_ignored_from_the_start_stays_ignored(place: Path) -> None:
    more = "signal.signal(signal.SIGINT, signal.SIG_IGN); interruption.install(); os.kill(os.getpid(), signal.SIGINT)"
    ended = interrupted("gpt2_runtime", ["--version"], None, place=place, more=more)
    assert (ended.code, ended.lines) == (0, ())


def test_a_closed_stderr_does_not_keep_it_from_ending(place: Path) -> None:
    more = "os.close(2); os.kill(os.getpid(), signal.SIGTERM)"
    assert interrupted("gpt2_runtime", ["--version"], None, place=place, more=more).code == 143


def test_next_to_nothing_is_imported_before_the_handlers_are_set() -> None:
    program = "import sys; before = set(sys.modules)\nfrom gpt2_runtime.cli.entry import main"
    program += "\nprint(*set(sys.modules) - before)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = {name for name in ran.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert found == {"gpt2_runtime", "gpt2_runtime.cli", "gpt2_runtime.cli.entry", "gpt2_runtime.cli.interruption"}
    assert {"typing", "re", "json", "inspect"}.isdisjoint(ran.stdout.split())


def test_the_package_has_the_public_names_that_type_checkers_see() -> None:
    tree = ast.parse(Path(gpt2_runtime.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0]
    typed = {
        alias.name: node.module.partition(".")[2]
        for node in imports
        for alias in node.names
        if node.module and node.module.startswith("gpt2_runtime.")
    }
    assert typed == gpt2_runtime.HOMES
    assert sorted(gpt2_runtime.__all__) == sorted(gpt2_runtime.HOMES)
    assert all(getattr(gpt2_runtime, name) is not None for name in gpt2_runtime.__all__)


def test_a_function_is_not_hidden_by_the_module_of_its_name() -> None:
    program = (
        "import gpt2_runtime.text.generator; from gpt2_runtime import generate, perplexity; print(generate, perplexity)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.count("<function") == 2


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    assert not hasattr(gpt2_runtime, "no_such_name")
    assert gpt2_runtime.errors.GPT2RuntimeError is gpt2_runtime.GPT2RuntimeError
