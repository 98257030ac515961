"""A process that dies right before its n-th change of the file system, for every n."""

import os
import sys
from collections.abc import Callable
from typing import Any

# What changes the file system, as Python's own audit events call it.
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.chmod", "os.truncate"}


def killed_at(number: int, change: Callable[[], object]) -> bool:
    """Calls `change` in a process that dies there; False where it had fewer changes to make.

    As with SIGKILL nothing is cleaned up. An exception of `change` itself ends the process, too: it is shown.
    """
    child = os.fork()
    if child == 0:  # it never returns into pytest
        count = 0

        def die(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event not in CHANGES and not (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                return
            if count == number:
                os._exit(9)
            count += 1

        try:
            sys.addaudithook(die)
            change()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 9
