"""Ctrl-C and TERM, as the command answers them: at once, with one line and the exit code that a shell expects.

The process ends within the handler. An exception would not do: it can come up while a library is being imported, in a
destructor or below C++, where it is swallowed, turned into another error, or printed as a traceback. Nothing has to be
unwound here, for what is written is written whole: a line of `batch` by one call, a page within `held`.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

TYPE_CHECKING = False  # as in the package's __init__: nothing is imported here that can wait
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import NoReturn

LINES = {signal.SIGINT: b"interrupted\n", signal.SIGTERM: b"terminated\n"}

TERMINAL = b"\r\x1b[K"  # clears the line of a bar


class _State:
    held = False
    waiting: int | None = None  # the signal that came meanwhile
    reported = False


def install() -> None:
    """Sets the handlers. A signal that the process was started to ignore stays ignored, as below nohup."""
    for number in LINES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _answer)


def finish() -> None:
    """Ignores what comes when all is done: Python, as it ends, would hand it to the system, unanswered."""
    for number in LINES:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def held() -> Iterator[None]:
    """Lets what is inside be finished first. For moments, such as that in which a file is renamed."""
    _State.held = True
    try:
        yield
    finally:
        _State.held = False
        if _State.waiting is not None:
            _end(_State.waiting)


def _answer(number: int, _: FrameType | None) -> None:
    if _State.reported:  # the first is being answered
        return
    if _State.held:
        _State.waiting = number
    else:
        _end(number)


def _end(number: int) -> NoReturn:
    try:
        _State.reported = True
        os.write(2, (TERMINAL if os.isatty(2) else b"") + LINES[signal.Signals(number)])
    finally:
        os._exit(128 + number)
