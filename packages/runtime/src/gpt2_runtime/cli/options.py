"""What the commands share: the arguments and options of a folder, and how errors are reported."""

from __future__ import annotations

import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NoReturn, cast

import click

from gpt2_runtime.cli.streams import check_output
from gpt2_runtime.engine.session import Session
from gpt2_runtime.errors import MOST_SHOWN, GPT2RuntimeError
from gpt2_runtime.generation.config import SETTINGS, GenerationConfig, Settings
from gpt2_runtime.generation.prompt_lookup import LookupConfig
from gpt2_runtime.precisions import PRECISIONS
from gpt2_runtime.providers.providers import PROVIDERS
from gpt2_runtime.settings import Setting

Command = Callable[..., None]

INTERRUPTED = 130  # a shell's exit code for a process ended by Ctrl-C


def guarded(command: Command) -> Command:
    """Gives a command --debug, and reports any error in one line on stderr without it."""

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(command)
    def wrapped(*, debug: bool, **options: object) -> None:
        try:
            check_output()
            command(**options)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise  # click handles these: usage errors exit with 2, a closed pipe quietly
        except Exception as error:
            if debug:
                traceback.print_exc()
                sys.exit(1)
            fail(error)

    return wrapped


# A parameter and its value in a message, as a program writes them.
ARGUMENT = re.compile(r"\b([a-z_]+)=(True|'[^']*')")


def in_options(message: str) -> str:
    """A message of the library, with the parameters in its remedy replaced by the command's options.

    >>> with click.Context(click.Command("x", params=[click.Option(["--overflow"])])):
    ...     in_options("prompt has 65 tokens, the model reads 64; shorten it or pass overflow='truncate'")
    'prompt has 65 tokens, the model reads 64; shorten it or pass --overflow truncate'
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return message
    names = {each.name: each.opts[0] for each in context.command.params if isinstance(each, click.Option)}

    def spelled(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in names:
            return match[0]
        return names[name] if value == "True" else f"{names[name]} {value[1:-1]}"

    problem, semicolon, remedy = message.rpartition("; ")
    return f"{problem}{semicolon}{ARGUMENT.sub(spelled, remedy)}"


def fail(error: Exception) -> NoReturn:
    """One line on stderr, and exit code 1."""
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is None:  # errors of opening name the file
        message = f"output cannot be written: {error.strerror or message}; free some space, or write it elsewhere"
        _drop_output()
    elif isinstance(error, UnicodeEncodeError):
        character = error.object[error.start]
        problem = f"output is {error.encoding}, which has no {character!a}"
        message = f"{problem}; set PYTHONUTF8=1 for UTF-8, or use --json if available"
    elif isinstance(error, MemoryError):
        message = "out of memory; process less at once (--rows, -n, a shorter text), or close other programs"
    elif not isinstance(error, GPT2RuntimeError):
        message = f"unexpected {type(error).__name__}: {message}; run again with --debug for the traceback"
    else:
        message = in_options(message)
    click.echo(f"error: {message}", err=True)
    sys.exit(1)


def _drop_output() -> None:
    """Discards the unwritten output in stdout's buffer, about which Python would complain again at exit."""
    with suppress(OSError):  # stdout has no descriptor, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


folder = click.argument("folder")
precision = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Precision of the weights.  [default: the most exact one in FOLDER]",
)
provider = click.option(
    "--provider", type=click.Choice(list(PROVIDERS)), default="cpu", show_default=True, help="Where the model runs."
)
threads = click.option("--threads", type=int, help="Threads per operator.  [default: the number of usable CPUs]")
graph = click.option(
    "--graph",
    type=click.Choice(["serving", "portable"]),
    help="Graph to run.  [default: serving if it can run, else portable]",
)
cuda_graph = click.option(
    "--cuda-graph", is_flag=True, help="With cuda and fp16: capture the one-token step as a CUDA graph and replay it."
)
fast_single = click.option(
    "--fast-single",
    is_flag=True,
    help="With int8 and int4 on the CPU: generate a single text faster, though it may differ from the text in a batch.",
)
lookup = click.option(
    "--lookup",
    is_flag=True,
    help="Draft tokens from the text so far (prompt lookup): the same text, faster if it repeats itself. int8 and int4 "
    "need --fast-single.",
)
check_hashes = click.option(
    "--check-hashes", is_flag=True, help="Compare every file with the manifest's SHA-256 first."
)


def note_lookup(session: Session, lookup: bool) -> LookupConfig | None:
    """The config for --lookup; with a note on stderr if it has no effect."""
    if lookup and session.even:
        reason = f"--lookup has no effect, since drafts could change the text in {session.precision}"
        click.echo(f"note: {reason}; add --fast-single to allow that", err=True)
    return LookupConfig() if lookup else None


def _bias(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[int, float] | None:
    biases: dict[int, float] = {}
    for value in values:
        id_, _, bias = value.partition("=")
        try:
            token, number = int(id_), float(bias)
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is not a token id and a number such as 50256=-1.5") from error
        if token in biases:
            raise click.BadParameter(f"{value!r} is the second bias for token {token}; give only one")
        biases[token] = number
    return biases or None


def _ids(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[list[int]] | None:
    try:
        return [[int(id_) for id_ in value.split(",")] for value in values] or None
    except ValueError as error:
        raise click.BadParameter(f"{values[-1]!r} is not a list of token ids such as 464,3290") from error


def _given(context: click.Context, parameter: click.Parameter, values: tuple[object, ...]) -> tuple[object, ...] | None:
    return values or None


def _unless(context: click.Context, parameter: click.Parameter, value: bool) -> bool | None:
    return False if value else None


# How the command parses a setting, by the type of its value. An absent option is None, and left to the library.
KINDS: dict[type, dict[str, Any]] = {
    bool: {"is_flag": True, "callback": _unless},
    dict: {"multiple": True, "callback": _bias},
    list: {"multiple": True, "callback": _ids},
}


def option(row: Setting) -> Callable[[Command], Command]:
    """The option of a setting: --top-k for top_k, unless its row names another."""
    name = row.option or "--" + row.name.replace("_", "-")
    read = KINDS.get(row.kind) or {"type": click.Choice(row.choices) if row.choices else row.kind}
    if row.many and row.kind not in KINDS:
        read |= {"multiple": True, "callback": _given}
    note = "" if row.shown_default is None else f"  [default: {row.shown_default}]"
    return click.option(name, row.name, metavar=row.metavar, help=row.help + note, **read)


seed = option(SETTINGS["seed"])
_continuation: tuple[Callable[[Command], Command], ...] = (
    *(option(row) for name, row in SETTINGS.items() if name != "seed"),  # `batch` derives a seed for each line
    click.option("-n", "n", type=int, default=1, show_default=True, help="Number of continuations; one prefill."),
)


def continuation(command: Command) -> Command:
    """Gives a command the options for how to continue a prompt; `settings` converts them."""
    for each in reversed(_continuation):
        command = each(command)
    return command


ESCAPE = re.compile(r"\\(?:[nrt0]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})")


def hints(values: Mapping[str, Any]) -> Iterator[str]:
    r"""Hints about texts that contain a typed escape such as \n, which neither the shell nor this command expands.

    >>> for hint in hints({"stop": ("JULIET:", r"\n\n"), "bad_words": None}):
    ...     print(hint)
    hint: --stop is \n\n, taken literally; for the characters that it stands for, in bash write $'\n\n'
    """
    for option, texts in (("--stop", values["stop"] or ()), ("--bad-word", values["bad_words"] or ())):
        for text in texts:
            if ESCAPE.search(text):
                typed = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[:MOST_SHOWN])
                quoted = typed.replace("'", r"\'")
                literal = f"{option} is {typed}, taken literally"
                yield f"hint: {literal}; for the characters that it stands for, in bash write $'{quoted}'"
                break


def settings(values: Mapping[str, Any]) -> Settings:
    """The settings from the options of `continuation` that were given, without -n.

    Raises:
        SettingError: a value is out of range.
    """
    present = cast(Settings, {name: values[name] for name in SETTINGS if values.get(name) is not None})
    GenerationConfig.of(**present)
    return present
