"""Progress of long steps: a bar in a terminal, a line per stage in a log.

It looks like gpt2-runtime's, which has its own file: the two packages share no code.
"""

import os
import time
from collections.abc import Callable
from typing import TextIO

import click

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, the amount done and the total; done == total ends the stage."""

COLUMNS = 80  # of a terminal whose width is unknown


def silent(stage: str, done: int, total: int) -> None:
    """Shows nothing."""


class LogProgress:
    """Prints a line with the seconds when a stage ends."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.stage = ""
        self.started = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self.stage:
            self.stage, self.started = stage, time.monotonic()
        if done == total:
            click.echo(f"{stage}: done in {time.monotonic() - self.started:.1f} s", file=self.stream)


class TerminalProgress(LogProgress):
    """The same, and meanwhile a bar that is redrawn in place."""

    width = 30

    def __call__(self, stage: str, done: int, total: int) -> None:
        if done < total:
            filled = self.width * done // total
            bar = "#" * filled + "-" * (self.width - filled)
            text = f"{stage:>9} [{bar}] {done}/{total}"[: _columns(self.stream) - 1]  # a longer one would not be wiped
            click.echo(f"\r\033[K{text}", nl=False, file=self.stream)
        else:
            click.echo("\r\033[K", nl=False, file=self.stream)
        super().__call__(stage, done, total)


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or COLUMNS
    except (OSError, ValueError):  # not a real file
        return COLUMNS


def progress_for(stream: TextIO) -> Progress:
    """A bar if `stream` is a terminal, else lines."""
    return TerminalProgress(stream) if stream.isatty() else LogProgress(stream)
