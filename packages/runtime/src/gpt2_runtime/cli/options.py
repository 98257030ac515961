"""What the commands share: the arguments and options of a folder, and how an error is told."""

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
from gpt2_runtime.folder.bundle import PRECISIONS
from gpt2_runtime.generation.config import SETTINGS, GenerationConfig, Settings
from gpt2_runtime.generation.prompt_lookup import LookupConfig
from gpt2_runtime.providers.providers import PROVIDERS
from gpt2_runtime.settings import Setting

Command = Callable[..., None]

INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended


def guarded(command: Command) -> Command:
    """Gives a command --debug, and without it one line on stderr for whatever goes wrong."""

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(command)
    def wrapped(*, debug: bool, **options: object) -> None:
        try:
            check_output()
            command(**options)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise  # click's own business: usage errors exit with 2, a closed pipe quietly
        except Exception as error:
            if debug:
                traceback.print_exc()
                sys.exit(1)
            fail(error)

    return wrapped


# In a message a parameter and its value, as a program writes them.
ARGUMENT = re.compile(r"\b([a-z_]+)=(True|'[^']*')")


def in_options(message: str) -> str:
    """A message of the library, with the command's own options in its remedy, which names parameters.

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

    told, semicolon, remedy = message.rpartition("; ")
    return f"{told}{semicolon}{ARGUMENT.sub(spelled, remedy)}"


def fail(error: Exception) -> NoReturn:
    """One line on stderr, and exit code 1."""
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is None:  # files are named where they are opened
        message = f"output cannot be written: {error.strerror or message}; make room, or write it elsewhere"
        _drop_output()
    elif isinstance(error, UnicodeEncodeError):
        character = error.object[error.start]
        told = f"output is {error.encoding}, which has no {character!a}"
        message = f"{told}; set PYTHONUTF8=1 for UTF-8, or take --json where there is one"
    elif isinstance(error, MemoryError):
        message = "memory is used up; ask for less at once (--rows, -n, a shorter text), or close other programs"
    elif not isinstance(error, GPT2RuntimeError):
        message = f"unexpected {type(error).__name__}: {message}; run again with --debug for the traceback"
    else:
        message = in_options(message)
    click.echo(f"error: {message}", err=True)
    sys.exit(1)


def _drop_output() -> None:
    """What could not be written is still in stdout's buffer, and Python would tell of it again when it ends."""
    with suppress(OSError):  # not a file of the system's: a test's, for instance
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
threads = click.option("--threads", type=int, help="Threads per operator.  [default: as many as there are CPUs to use]")
graph = click.option(
    "--graph",
    type=click.Choice(["serving", "portable"]),
    help="Graph to run.  [default: serving where it can run, else portable]",
)
cuda_graph = click.option(
    "--cuda-graph", is_flag=True, help="With cuda and fp16: capture the one-token step as a CUDA graph and replay it."
)
fast_single = click.option(
    "--fast-single",
    is_flag=True,
    help="With int8 and int4 on the CPU: faster for a text alone, which may then differ from the same text in a batch.",
)
lookup = click.option(
    "--lookup",
    is_flag=True,
    help="Guess tokens from the text so far: the same text, sooner where it repeats itself. int8 and int4 guess with "
    "--fast-single only.",
)
check_hashes = click.option(
    "--check-hashes", is_flag=True, help="Compare every file with the manifest's SHA-256 first."
)


def note_lookup(session: Session, lookup: bool) -> LookupConfig | None:
    """What --lookup says; on stderr a note where it has no effect."""
    if lookup and session.even:
        told = f"{session.precision} would write another text with guesses, so --lookup makes none"
        click.echo(f"note: {told}; add --fast-single to let it", err=True)
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
            raise click.BadParameter(f"{value!r} is the second bias of token {token}; give it once")
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


# How the command reads a setting, by the type of its value; all that is not given is None, and left to the library.
KINDS: dict[type, dict[str, Any]] = {
    bool: {"is_flag": True, "callback": _unless},
    dict: {"multiple": True, "callback": _bias},
    list: {"multiple": True, "callback": _ids},
}


def option(row: Setting) -> Callable[[Command], Command]:
    """The option of a setting: --top-k for top_k, or what its row says."""
    name = row.option or "--" + row.name.replace("_", "-")
    read = KINDS.get(row.kind) or {"type": click.Choice(row.choices) if row.choices else row.kind}
    if row.many and row.kind not in KINDS:
        read |= {"multiple": True, "callback": _given}
    note = "" if row.shown_default is None else f"  [default: {row.shown_default}]"
    return click.option(name, row.name, metavar=row.metavar, help=row.help + note, **read)


seed = option(SETTINGS["seed"])
_continuation: tuple[Callable[[Command], Command], ...] = (
    *(option(row) for name, row in SETTINGS.items() if name != "seed"),  # which a batch makes for each of its lines
    click.option("-n", "n", type=int, default=1, show_default=True, help="Number of continuations; one prefill."),
)


def continuation(command: Command) -> Command:
    """Gives a command the options that say how a prompt is continued; `settings` makes settings of them."""
    for each in reversed(_continuation):
        command = each(command)
    return command


ESCAPE = re.compile(r"\\(?:[nrt0]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})")


def hints(given: Mapping[str, Any]) -> Iterator[str]:
    r"""What was probably meant by texts in which a backslash was typed, to which neither shells nor we give a meaning.

    >>> for hint in hints({"stop": ("JULIET:", r"\n\n"), "bad_words": None}):
    ...     print(hint)
    hint: --stop is \n\n as typed, backslashes and letters; for the characters that it stands for, bash has $'\n\n'
    """
    for option, texts in (("--stop", given["stop"] or ()), ("--bad-word", given["bad_words"] or ())):
        for text in texts:
            if ESCAPE.search(text):
                typed = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[:MOST_SHOWN])
                quoted = typed.replace("'", r"\'")
                told = f"{option} is {typed} as typed, backslashes and letters"
                yield f"hint: {told}; for the characters that it stands for, bash has $'{quoted}'"
                break


def settings(given: Mapping[str, Any]) -> Settings:
    """What the options of `continuation` but -n say: those that were given.

    Raises:
        SettingError: a value is out of range.
    """
    told = cast(Settings, {name: given[name] for name in SETTINGS if given.get(name) is not None})
    GenerationConfig.of(**told)
    return told
