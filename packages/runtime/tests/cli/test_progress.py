"""A terminal gets a bar that no other line runs into; a log gets the lines alone."""

import io
import os
import sys

import pytest
from gpt2_runtime.cli.progress import Bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_that_is_wiped_for_the_last_line():
    terminal = Terminal()
    with Bar("score", 4, terminal) as bar:
        bar.show(2, "7 tokens/s")
        assert terminal.getvalue() == "\r\033[K    score [###############---------------] 2/4  7 tokens/s"
        bar.show(4)
    assert terminal.getvalue().endswith("[##############################] 4/4\r\033[Kscore: done in 0.0 s\n")


def test_a_line_is_one_of_its_own_and_the_bar_is_drawn_again_below_it():
    terminal = Terminal()
    with Bar("batch", 2, terminal) as bar:
        bar.line("hint: x")
        assert terminal.getvalue() == "hint: x\n"
        bar.show(0)
        drawn = terminal.getvalue().removeprefix("hint: x\n\r\033[K")
        bar.line("error: y")
    assert terminal.getvalue().startswith(f"hint: x\n\r\033[K{drawn}\r\033[Kerror: y\n{drawn}\r\033[K")


def test_an_error_inside_leaves_an_empty_line():
    terminal = Terminal()

    def fail():
        with Bar("score", 2, terminal) as bar:
            bar.show(1)
            raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        fail()
    assert terminal.getvalue().endswith("1/2\r\033[K")


def test_it_is_shown_once_its_length_is_known():
    terminal = Terminal()
    with Bar("bench", None, terminal) as bar:
        bar.show(1)
        assert terminal.getvalue() == ""
        bar.total = 2
        bar.show(1)
    assert "1/2" in terminal.getvalue()


def test_a_log_gets_the_lines_alone():
    log = io.StringIO()
    with Bar("batch", 2, log) as bar:
        bar.show(1, "7 tokens/s")
        bar.line("error: y")
    assert log.getvalue() == "error: y\n"


def test_a_process_without_stderr_shows_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with Bar("batch", 2) as bar:
        bar.show(1)
        bar.line("error: y")


@pytest.mark.parametrize("columns", [20, 60])
def test_it_is_cut_to_the_terminal(monkeypatch, columns):
    terminal = Terminal()
    monkeypatch.setattr(terminal, "fileno", lambda: 2)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 9)))
    Bar("score", 4, terminal).show(2, "7 tokens/s and much more to be said")
    assert len(terminal.getvalue().removeprefix("\r\033[K")) == columns - 1
