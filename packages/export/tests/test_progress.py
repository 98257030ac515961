"""A log gets a line per stage; a terminal gets a bar that is cleared before the next line."""

import io
import os

import pytest
from gpt2_export.progress import LogProgress, TerminalProgress, progress_for, silent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_line_when_a_stage_ends() -> None:
    log = io.StringIO()
    progress = progress_for(log)
    assert type(progress) is LogProgress
    for done in range(4):
        progress("freeze", done, 3)
    progress("export", 0, 1)
    assert log.getvalue() == "freeze: done in 0.0 s\n"


def test_a_terminal_gets_a_bar_that_is_cleared_for_the_line() -> None:
    terminal = Terminal()
    progress = progress_for(terminal)
    assert type(progress) is TerminalProgress
    progress("freeze", 1, 2)
    assert terminal.getvalue() == "\r\033[K   freeze [###############---------------] 1/2"
    progress("freeze", 2, 2)
    assert terminal.getvalue().endswith("1/2\r\033[Kfreeze: done in 0.0 s\n")


def test_a_bar_is_full_only_at_the_end() -> None:
    terminal = Terminal()
    progress_for(terminal)("freeze", 999, 1000)
    assert "-]" in terminal.getvalue()


@pytest.mark.parametrize("columns", [20, 30])
def test_a_bar_is_cut_to_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    terminal = Terminal()
    monkeypatch.setattr(terminal, "fileno", lambda: 2)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 9)))
    progress_for(terminal)("freeze", 1, 2)
    assert len(terminal.getvalue().removeprefix("\r\033[K")) == columns - 1


def test_an_empty_stage_ends_at_once() -> None:
    terminal = Terminal()
    progress_for(terminal)("freeze", 0, 0)
    assert terminal.getvalue().endswith("freeze: done in 0.0 s\n")


def test_silence_is_possible() -> None:
    silent("freeze", 1, 2)
