"""What the commands share: the arguments and options of a folder, and how an error is told."""

from __future__ import annotations

import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any, NoReturn, cast

import click

from gpt2_runtime.cli.streams import check_output
from gpt2_runtime.engine.session import Session
from gpt2_runtime.errors import MOST_SHOWN, GPT2RuntimeError
from gpt2_runtime.folder.bundle import PRECISIONS
from gpt2_runtime.generation.prompt_lookup import LookupConfig
from gpt2_runtime.providers.providers import PROVIDERS
from gpt2_runtime.sampling.config import SamplingConfig
from gpt2_runtime.text.generator import MAX_NEW_TOKENS, Settings

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


def _bias(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[int, float]:
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
    return biases


_continuation = (
    click.option(
        "--max-new-tokens",
        type=int,
        default=MAX_NEW_TOKENS,
        show_default=True,
        help="Generate at most this many tokens.",
    ),
    click.option("--min-new-tokens", type=int, default=0, help="Allow no stop token before this many tokens."),
    click.option("--temperature", type=float, help="Below 1 is safer, above 1 is wilder, 0 is greedy.  [default: 1.0]"),
    click.option("--top-k", type=int, help="Draw from the K likeliest tokens only.  [default: from all]"),
    click.option("--top-p", type=float, help="Draw from the fewest likeliest tokens whose probabilities sum to this."),
    click.option("--min-p", type=float, help="Draw from tokens at least this fraction as probable as the likeliest."),
    click.option("--typical-p", type=float, help="Draw from the most typical tokens whose probabilities sum to this."),
    click.option(
        "--repetition-penalty", type=float, default=1.0, help="Above 1, tokens that are in the text become less likely."
    ),
    click.option(
        "--frequency-penalty",
        type=float,
        default=0.0,
        help="Subtract this from a token's logit for each time it was generated.",
    ),
    click.option(
        "--presence-penalty",
        type=float,
        default=0.0,
        help="Subtract this once from the logit of every token that was generated.",
    ),
    click.option("--no-repeat-ngram-size", type=int, metavar="N", help="Let no sequence of N tokens occur twice."),
    click.option(
        "--logit-bias",
        multiple=True,
        metavar="ID=BIAS",
        callback=_bias,
        help="Add BIAS to a token's logit; -inf forbids the token. Repeatable.",
    ),
    click.option("--bad-word", "bad_words", multiple=True, help="Never generate the tokens of this text. Repeatable."),
    click.option(
        "--stop", multiple=True, help="End before this text, taken as it is: a line end is $'\\n' in bash. Repeatable."
    ),
    click.option(
        "--stop-token-id",
        "stop_token_ids",
        type=int,
        multiple=True,
        help="End at this token. Repeatable.  [default: end-of-text]",
    ),
    click.option(
        "--overflow",
        type=click.Choice(["error", "truncate", "slide"]),
        default="error",
        show_default=True,
        help="If the text is longer than the model's context: refuse it, keep the end of the prompt, or go on from the "
        "last half.",
    ),
    click.option(
        "--logprobs", type=int, metavar="N", help="Show each new token's log-probability and the N likeliest."
    ),
    click.option("--prompt-logprobs", type=int, metavar="N", help="Show the same for the tokens of the prompt."),
    click.option("-n", "n", type=int, default=1, show_default=True, help="Number of continuations; one prefill."),
)


def continuation(command: Command) -> Command:
    """Gives a command the options that say how a prompt is continued; `settings` makes settings of them."""
    for option in reversed(_continuation):
        command = option(command)
    return command


ESCAPE = re.compile(r"\\(?:[nrt0]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})")


def hints(given: Mapping[str, Any]) -> Iterator[str]:
    r"""What was probably meant by texts in which a backslash was typed, to which neither shells nor we give a meaning.

    >>> for hint in hints({"stop": ("JULIET:", r"\n\n"), "bad_words": ()}):
    ...     print(hint)
    hint: --stop is \n\n as typed, backslashes and letters; for the characters that it stands for, bash has $'\n\n'
    """
    for option, texts in (("--stop", given["stop"]), ("--bad-word", given["bad_words"])):
        for text in texts:
            if ESCAPE.search(text):
                typed = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[:MOST_SHOWN])
                quoted = typed.replace("'", r"\'")
                told = f"{option} is {typed} as typed, backslashes and letters"
                yield f"hint: {told}; for the characters that it stands for, bash has $'{quoted}'"
                break


def settings(given: Mapping[str, Any]) -> Settings:
    """What the options of `continuation` but -n say.

    Raises:
        SettingError: a value is out of range.
    """
    told = {each.name: given.get(each.name) for each in fields(SamplingConfig)}
    sampling = SamplingConfig(**{name: value for name, value in told.items() if value is not None})
    names = ("max_new_tokens", "stop", "bad_words", "overflow", "logprobs", "prompt_logprobs")
    others = {name: given[name] for name in names}
    return cast(Settings, {**others, "sampling": sampling, "stop_token_ids": given["stop_token_ids"] or None})
