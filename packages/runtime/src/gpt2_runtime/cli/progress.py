"""How far a long command is: a bar on a terminal's stderr, and nothing in a log, which has the command's own lines."""

from __future__ import annotations

import os
import sys
from time import monotonic

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

WIPE = "\r\033[K"
WIDTH = 30  # of the bar
COLUMNS = 80  # of a terminal that does not say


class Bar:
    """One line that is drawn over itself, `score [####----] 5/10  40 tokens/s`, and at the end a plain one.

    It looks as gpt2-export's does, and is cut to the terminal's width, for of a longer one only the last row is wiped.
    Any other line is printed by `line`, or after `wipe`.

    Args:
        stage: what is being done.
        total: of how much; None where that is not known, and nothing is shown.
        stream: stderr, unless given.
    """

    def __init__(self, stage: str, total: int | None = None, stream: TextIO | None = None) -> None:
        self.stage, self.total = stage, total
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream is not None and self._stream.isatty()
        self._started = monotonic()
        self._shown = ""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self.wipe()
        if error is None and self._is_terminal and self.total is not None:
            self._echo(f"{self.stage}: done in {monotonic() - self._started:.1f} s\n")

    def show(self, done: int, more: str = "") -> None:
        """Draws it, with what is said beside it."""
        if not self._is_terminal or self.total is None:
            return
        filled = WIDTH * done // max(1, self.total)
        bar = "#" * filled + "-" * (WIDTH - filled)
        text = f"{self.stage:>9} [{bar}] {done}/{self.total}" + (f"  {more}" if more else "")
        self._shown = text[: _columns(self._stream) - 1]
        self._echo(WIPE + self._shown)

    def wipe(self) -> None:
        """Clears its line, for another one; the next `show` draws it again."""
        if self._shown:
            self._shown = ""
            self._echo(WIPE)

    def line(self, text: str) -> None:
        """A line of its own, such as an error; in a log as well."""
        shown = self._shown
        self.wipe()
        self._echo(f"{text}\n")
        if shown:
            self._shown = shown
            self._echo(shown)

    def _echo(self, text: str) -> None:
        if self._stream is not None:  # a process may be started without
            click.echo(text, nl=False, file=self._stream)


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or COLUMNS
    except (OSError, ValueError):  # no file of the system's
        return COLUMNS
