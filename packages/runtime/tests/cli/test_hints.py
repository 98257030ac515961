"""A stop string in which a backslash was typed: it is taken as it is, and a hint says what was probably meant."""

import json
import re
from pathlib import Path

import click
import gpt2_runtime
import pytest
from click.testing import CliRunner
from gpt2_runtime.cli.command import main
from gpt2_runtime.cli.generate import generate
from gpt2_runtime.cli.options import hints, in_options

MEANT = "taken literally; for the characters that it stands for, in bash write"


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize("text", [r"\n", r"\n\n", r"a\tb", r"\r\n", r"\x0a", r"\u000a", r"\nUser:", "\\0"])
def test_a_backslash_that_was_typed_is_hinted_at(text):
    assert list(hints({"stop": ("x", text), "bad_words": ()})) == [f"hint: --stop is {text}, {MEANT} $'{text}'"]
    assert list(hints({"stop": (), "bad_words": (text,)})) == [f"hint: --bad-word is {text}, {MEANT} $'{text}'"]


@pytest.mark.parametrize("text", ["\n", "n", "\\", "C:\\dir", "\\alpha", "\\x0", "\\u12", "\t", ""])
def test_another_text_is_not(text):
    assert list(hints({"stop": (text,), "bad_words": (text,)})) == []


def test_a_hint_is_one_line_that_a_shell_can_read():
    (hint,) = hints({"stop": ("it's\n\\n" + "x" * 500,), "bad_words": ()})
    assert hint.count("\n") == 0
    assert len(hint) < 300
    assert r"$'it\'s" in hint


@pytest.mark.parametrize("options", [[], ["-n", 2], ["--num-beams", 2]], ids=str)
def test_generate_hints_on_stderr_and_takes_the_text_as_it_is(folder, options):
    texts = [] if "--num-beams" in options else ["--stop", r"\n"]
    words = ["generate", folder, "To be", "--max-new-tokens", 3, "--json", "--threads", 1, *options]
    found = run(*words, *texts, "--bad-word", r"\n\n")
    assert found.exit_code == 0
    json.loads(found.stdout)
    assert found.stderr.splitlines() == [
        *([rf"hint: --stop is \n, {MEANT} $'\n'"] if texts else []),
        rf"hint: --bad-word is \n\n, {MEANT} $'\n\n'",
    ]


def test_a_refusal_stays_one_line(folder):
    refused = run("generate", folder, "x" * 200, "--stop", r"\n", "--threads", 1)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)


def test_batch_hints_once(folder, tmp_path):
    (tmp_path / "in").write_bytes(b'{"prompt":"a"}\n{"prompt":"b"}\n{"prompt":"c","stop":["\\\\n"]}\n')
    words = ["batch", folder, tmp_path / "in", tmp_path / "out", "--max-new-tokens", 1, "--threads", 1]
    first, *rest = run(*words, "--stop", r"\n").stderr.splitlines()
    assert first == rf"hint: --stop is \n, {MEANT} $'\n'"
    assert len(rest) == 1


def test_the_help_says_how_a_line_end_is_typed():
    for command in ("generate", "batch"):
        assert r"a newline is $'\n' in bash" in " ".join(run(command, "--help").stdout.split())


def test_a_remedy_of_the_library_names_parameters_and_the_command_its_options():
    complaint = "the model reads 64; shorten it or pass overflow='truncate', check_hashes=True or other='x'"
    assert in_options(complaint) == complaint  # outside of a command
    with click.Context(generate):
        assert in_options(complaint) == (
            "the model reads 64; shorten it or pass --overflow truncate, --check-hashes or other='x'"
        )
        value = "stop is \"overflow='truncate'\", must be a list; leave it out"  # which is the user's own
        assert in_options(value) == value


def test_no_message_outside_of_the_command_names_an_option_alone():
    sources = Path(gpt2_runtime.__file__).parent.rglob("*.py")
    named = {
        path.name: found
        for path in sources
        if path.parent.name != "cli"
        and (found := re.findall(r"\b(?:pass|with|or|another) --[a-z-]+", path.read_text()))
    }
    assert named == {}
