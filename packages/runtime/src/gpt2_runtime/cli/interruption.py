"""How the command handles Ctrl-C and TERM: at once, with one line and the exit code that a shell expects.

The process exits inside the handler. An exception would not do: raised during a library's import, in a destructor or
below C++, it is swallowed, turned into another error, or printed as a traceback. Nothing needs to be unwound, since
all output is written atomically: a line of `batch` in one call, a page within `held`.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

TYPE_CHECKING = False  # as in the package's __init__: import only what is needed now
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import NoReturn

LINES = {signal.SIGINT: b"interrupted\n", signal.SIGTERM: b"terminated\n"}

TERMINAL = b"\r\x1b[K"  # clears the line of a bar


class _State:
    held = False
    waiting: int | None = None  # a signal received meanwhile
    reported = False


def install() -> None:
    """Installs the handlers. A signal that was ignored from the start stays ignored, as under nohup."""
    for number in LINES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _answer)


def finish() -> None:
    """Ignores later signals: at exit Python restores the system's handlers, which would kill the process silently."""
    for number in LINES:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def held() -> Iterator[None]:
    """Delays a signal until the block is done. For brief operations, such as renaming a file."""
    _State.held = True
    try:
        yield
    finally:
        _State.held = False
        if _State.waiting is not None:
            _end(_State.waiting)


def _answer(number: int, _: FrameType | None) -> None:
    if _State.reported:  # one is being handled already
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
