"""How far a long step is: stages report, a terminal shows a bar, a log gets a line for each stage.

It looks as gpt2-runtime's does, in a file of its own there: the two packages share no code.
"""

import os
import time
from collections.abc import Callable
from typing import TextIO

import click

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, how much of it is done, and how much there is; done == total ends the stage."""

COLUMNS = 80  # of a terminal that does not say


def silent(stage: str, done: int, total: int) -> None:
    """Shows nothing."""


class LogProgress:
    """A line when a stage ends, with its seconds."""

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
    """The same, and in between a bar that is drawn over itself."""

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
    except (OSError, ValueError):  # no file of the system's
        return COLUMNS


def progress_for(stream: TextIO) -> Progress:
    """A bar where `stream` is a terminal, lines where it is a file."""
    return TerminalProgress(stream) if stream.isatty() else LogProgress(stream)
