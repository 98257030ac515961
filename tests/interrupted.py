"""A command that a signal ends at a chosen moment after it has set its handlers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# From the byte on stdout the command must answer; before its first line it cannot. A job in the background inherits
# SIGINT as ignored, which a command leaves so: here it is as a terminal has it.
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
    """How it ended.

    Attributes:
        code: its exit code, minus the signal's number where that ended it unanswered.
        lines: of stderr, progress left out.
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
    """Runs a command in `place`, and sends it a signal, or several in a row, after so many seconds."""
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
