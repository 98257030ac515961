"""Kills a process right before its n-th change of the file system, or fills the disk from there on, for every n."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

# Python's audit events that change the file system.
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.chmod", "os.truncate"}


def killed_at(number: int, change: Callable[[], object]) -> bool:
    """Calls `change` in a process that dies there; False if it made fewer changes.

    As with SIGKILL nothing is cleaned up. An exception of `change` itself also ends the process, and is printed.
    """

    def die(count: int, event: str) -> None:
        if count == number:
            os._exit(9)

    code = _exit_code(die, change)
    assert code in (0, 9)
    return code == 9


def full_at(number: int, change: Callable[[], object], refusal: type[Exception]) -> bool:
    """Calls `change` in a process whose disk is full from there on; False if it made fewer changes.

    It must end with a `refusal`.
    """

    def refuse(count: int, event: str) -> None:
        if count >= number and event in ("open", "os.mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def end() -> None:
        try:
            change()
        except refusal as error:
            if "no space left for" in str(error):
                os._exit(9)
            raise
        return None

    code = _exit_code(refuse, end)
    assert code in (0, 9)
    return code == 9


def _exit_code(happens: Callable[[int, str], None], change: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:  # it never returns to pytest
        count = 0

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                count += 1
                happens(count - 1, event)

        try:
            sys.addaudithook(watch)
            change()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)
