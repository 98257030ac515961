"""Runs a command that a signal ends at a chosen moment after it has installed its handlers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# From the byte on stdout on, the command must handle signals; before its first line it cannot. A background job
# inherits an ignored SIGINT, which a command leaves ignored: here SIGINT is as in a terminal.
PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
from {package}.cli.entry import main
from {package}.cli import interruption
interruption.install()
os.write(1, b".")
{more}
main()
"""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; minus the signal's number if the signal was not handled.
        lines: of stderr, without progress.
        seconds: from the signal to the end.
    """

    code: int
    lines: tuple[str, ...]
    seconds: float


def interrupted(
    package: str,
    arguments: Sequence[str | Path],
    number: signal.Signals | None,
    delay: float = 0,
    *,
    place: Path,
    times: int = 1,
    more: str = "",
) -> Ended:
    """Runs a command in `place` and sends it one or several signals after a delay in seconds."""
    program = PROGRAM.format(package=package, more=more)
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 1) == b"."
        time.sleep(delay)
        sent = time.monotonic()
        for _ in range(times if number is not None else 0):
            process.send_signal(number or 0)
            time.sleep(0.001)
        _, errors = process.communicate(timeout=300)
    lines = [line for line in errors.decode().splitlines() if ": done in " not in line]
    return Ended(code=process.returncode, lines=tuple(lines), seconds=time.monotonic() - sent)
