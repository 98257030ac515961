"""Ctrl-C and TERM, as the command answers them: nothing half-written stays, one line, the exit code that shells expect.

Where nothing has to be undone (while a command is being imported, or prints) the process ends at once, in the handler.
In `unwinding` an exception is raised instead, so that temporary folders are removed. That alone would not do: it can be
raised in a destructor, below C++, or where a library takes all errors for its own, and is lost. So it is raised again
every few milliseconds until `unwinding` has ended; and never where files are being made or removed, which is finished
first.
"""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import NoReturn

LINES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
SECONDS = 0.02  # until an exception that was lost comes again
CLEAR = "\r\x1b[K"  # the bar that a signal comes in the middle of

# Whose work is finished first; of contextlib only its own lines, for much else may be run below them.
FINISHED_FIRST = {
    f"gpt2_export.{name}" for name in ("cli.interruption", "folder.atomic", "folder.journal", "temporary")
} | {"shutil", "tempfile"}


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or TERM, on its way up."""


class _State:
    unwinding = False
    came: int | None = None  # the signal that has to be answered
    reported = False


class unwinding:  # noqa: N801 - it is used as a function is; a generator's frames would be contextlib's
    """While this lasts, a signal is an exception; afterwards the process ends, whatever has become of the exception."""

    def __enter__(self) -> None:
        _State.unwinding = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        _State.unwinding = False
        if _State.came is not None:
            _end(_State.came, "; nothing was left behind" if kind else "")


def install() -> None:
    """Sets the handlers. A signal that the process was started to ignore stays ignored, as below nohup."""
    hook = sys.unraisablehook  # prints what came up in a destructor
    sys.unraisablehook = lambda lost: None if isinstance(lost.exc_value, Interrupted) else hook(lost)
    for number in LINES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _answer)


def finish() -> None:
    """Ignores what comes when all is done: Python, as it ends, would hand it to the system, unanswered."""
    for number in LINES:
        signal.signal(number, signal.SIG_IGN)


def _answer(number: int, frame: FrameType | None) -> None:
    if _State.reported:  # the first is being answered
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
    """Raises, unless something has to be finished first."""
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
