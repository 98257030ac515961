"""On Ctrl-C or TERM at any moment the command ends with one line and 130 or 143, and nothing half-written stays."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from interrupted import interrupted

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

ANSWERS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}
UNDONE = "; nothing was left behind"

# A step that has made its temporary folder; {event} happens inside it.
STEP = """
import pathlib, time
from gpt2_export import temporary
class Library:
    def __del__(self):
        os.kill(os.getpid(), {number})
with interruption.unwinding():
    with temporary.folder(pathlib.Path("."), "out") as folder:
        (folder / "half").write_text("")
{event}
"""


def step(event: str, number: signal.Signals) -> str:
    return STEP.format(number=int(number), event="".join(f"        {line}\n" for line in event.splitlines()))


KILL = "os.kill(os.getpid(), {number})"
EVENTS = {
    "it comes": KILL,
    "a library catches it": f"try:\n    {KILL}\nexcept BaseException:\n    pass\ntime.sleep(30)",
    "it becomes another error": f"try:\n    {KILL}\nexcept BaseException as error:\n    raise ImportError from error",
    "a library catches everything and continues": f"try:\n    {KILL}\nexcept BaseException:\n    pass\n"
    "try:\n    time.sleep(30)\nexcept BaseException:\n    pass\ntime.sleep(30)",
    "in a destructor": "Library()\ntime.sleep(30)",
    "twice": f"try:\n    {KILL}\nfinally:\n    {KILL}",
}


@pytest.mark.parametrize("number", ANSWERS)
@pytest.mark.parametrize("event", EVENTS)
def test_a_step_is_undone_even_if_the_exception_is_lost(event: str, number: signal.Signals, tmp_path: Path) -> None:
    more = step(EVENTS[event].replace("{number}", str(int(number))), number)
    ended = interrupted("gpt2_export", [], None, place=tmp_path, more=more)
    code, line = ANSWERS[number]
    assert (ended.code, ended.lines) == (code, (line + UNDONE,))
    assert ended.seconds < 25
    assert list(tmp_path.iterdir()) == []


def test_a_removal_is_finished_before_a_second_signal_is_handled(tmp_path: Path) -> None:
    more = step(
        "plain = temporary.shutil.rmtree\n"
        "temporary.shutil.rmtree = lambda *a, **k: (os.kill(os.getpid(), 2), time.sleep(0.1), plain(*a, **k))\n"
        "os.kill(os.getpid(), 2)",
        signal.SIGINT,
    )
    ended = interrupted("gpt2_export", [], None, place=tmp_path, more=more)
    assert (ended.code, ended.lines) == (130, ("interrupted" + UNDONE,))
    assert list(tmp_path.iterdir()) == []


def sweep(arguments: list[str], place: Path, delays: list[float], times: int = 1) -> int:
    """Sends each signal after each delay; returns how often the command was still running."""
    answered = 0
    for number, (code, line) in ANSWERS.items():
        for delay in delays:
            ended = interrupted("gpt2_export", arguments, number, delay, place=place, times=times)
            if ended.code != 0:
                assert (ended.code, len(ended.lines)) == (code, 1), f"{number.name} after {delay} s: {ended}"
                assert ended.lines[0] in (line, line + UNDONE)
                assert list(place.iterdir()) == [], f"{number.name} after {delay} s"
                answered += 1
            elif (place / "out").exists():
                subprocess.run(["rm", "-r", str(place / "out")], check=True)
    return answered


def test_a_signal_is_handled_during_imports_and_the_run(tmp_path: Path) -> None:
    assert sweep(["freeze", "demo", "out"], tmp_path, [0, 0.1, 0.4]) >= 2


@pytest.mark.nightly
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_is_handled_at_every_moment_of_freeze(times: int, tmp_path: Path) -> None:
    assert sweep(["freeze", "demo", "out"], tmp_path, [step / 20 for step in range(41)], times=times) > 20


@pytest.mark.nightly
def test_a_signal_is_handled_at_every_stage_of_make(source: Path, tmp_path: Path) -> None:
    assert sweep(["make", str(source), "out"], tmp_path, [1.37 * step for step in range(20)]) > 10
