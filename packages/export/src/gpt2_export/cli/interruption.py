"""How the command handles Ctrl-C and TERM: nothing half-written stays, one line, the exit code that shells expect.

Where there is nothing to undo (during imports or printing), the handler ends the process at once. Inside `unwinding` it
raises an exception instead, so that temporary folders are removed. One exception is not enough: raised in a destructor,
below C++, or where a library catches everything, it is lost. So it is raised again every few milliseconds until
`unwinding` has ended, but never while files are being made or removed: that is finished first.
"""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import NoReturn

LINES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
SECONDS = 0.02  # until a lost exception is raised again
CLEAR = "\r\x1b[K"  # a progress bar may be drawn there

# Modules whose work is finished first; for contextlib only its own lines, since it calls much else.
FINISHED_FIRST = {
    f"gpt2_export.{name}" for name in ("cli.interruption", "folder.atomic", "folder.journal", "temporary")
} | {"shutil", "tempfile"}


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or TERM, on its way up."""


class _State:
    unwinding = False
    came: int | None = None  # the signal to handle
    reported = False


class unwinding:  # noqa: N801 - used like a function; a generator's frames would belong to contextlib
    """Inside this block a signal raises an exception; afterwards the process ends even if the exception was lost."""

    def __enter__(self) -> None:
        _State.unwinding = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        _State.unwinding = False
        if _State.came is not None:
            _end(_State.came, "; nothing was left behind" if kind else "")


def install() -> None:
    """Sets the handlers. A signal ignored from the start, as under nohup, stays ignored."""
    hook = sys.unraisablehook  # prints exceptions of destructors
    sys.unraisablehook = lambda lost: None if isinstance(lost.exc_value, Interrupted) else hook(lost)
    for number in LINES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _answer)


def finish() -> None:
    """Ignores signals once everything is done: Python at exit would leave them to the system."""
    for number in LINES:
        signal.signal(number, signal.SIG_IGN)


def _answer(number: int, frame: FrameType | None) -> None:
    if _State.reported:  # the first is being handled
        return
    if not _State.unwinding:
        _end(number)
    if _State.came is None:
        _State.came = number
        if hasattr(signal, "setitimer"):  # not on Windows
            signal.signal(signal.SIGALRM, lambda _, frame: _leave(frame))
            signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS)
    _leave(frame)


def _leave(frame: FrameType | None) -> None:
    """Raises the exception, unless something must be finished first."""
    if not _State.unwinding or (frame is not None and frame.f_globals.get("__name__") == "contextlib"):
        return
    while frame is not None:
        if frame.f_globals.get("__name__") in FINISHED_FIRST:
            return
        frame = frame.f_back
    raise Interrupted


def _end(number: int, more: str = "") -> NoReturn:
    try:
        _State.reported = True
        line = f"{CLEAR if os.isatty(2) else ''}{LINES[signal.Signals(number)]}{more}\n"
        os.write(2, line.encode())
    finally:
        os._exit(128 + number)
