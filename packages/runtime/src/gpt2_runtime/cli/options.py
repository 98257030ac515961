"""What the commands share: the arguments and options of a folder, and how an error is told."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any, NoReturn, cast

import click

from gpt2_runtime.bundle import PRECISIONS
from gpt2_runtime.errors import Gpt2RuntimeError
from gpt2_runtime.providers import PROVIDERS
from gpt2_runtime.sampling import SamplingConfig
from gpt2_runtime.text import MAX_NEW_TOKENS, Settings

Command = Callable[..., None]

INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended


def guarded(command: Command) -> Command:
    """Gives a command --debug, and without it one line on stderr for whatever goes wrong."""

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(command)
    def wrapped(*, debug: bool, **options: object) -> None:
        try:
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
    elif not isinstance(error, Gpt2RuntimeError):
        message = f"unexpected {type(error).__name__}: {message}; run again with --debug for the traceback"
    click.echo(f"error: {message}", err=True)
    sys.exit(1)


def _drop_output() -> None:
    """What could not be written is still in stdout's buffer, and Python would tell of it again when it ends."""
    with suppress(OSError):  # not a file of the system's: a test's, for instance
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


folder = click.argument("folder")
precision = click.option(
    "--precision", type=click.Choice(PRECISIONS), help="Of the weights.  [default: the most exact one in FOLDER]"
)
provider = click.option(
    "--provider", type=click.Choice(list(PROVIDERS)), default="cpu", show_default=True, help="Where the model runs."
)
threads = click.option("--threads", type=int, help="Threads of one operator.  [default: the CPUs it may use]")
graph = click.option(
    "--graph",
    type=click.Choice(["serving", "portable"]),
    help="Which of the folder's graphs.  [default: serving on the CPU, if FOLDER has it]",
)
cuda_graph = click.option(
    "--cuda-graph", is_flag=True, help="On cuda, capture a step by one token once and replay it (precision fp16)."
)
check_hashes = click.option(
    "--check-hashes", is_flag=True, help="First compare every file with the manifest's SHA-256."
)


def _bias(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[int, float]:
    try:
        return {int(id_): float(bias) for id_, _, bias in (value.partition("=") for value in values)}
    except ValueError as error:
        raise click.BadParameter(f"{values[-1]!r} is not a token id and a number such as 50256=-1.5") from error


_continuation = (
    click.option(
        "--max-new-tokens", type=int, default=MAX_NEW_TOKENS, show_default=True, help="At most so many tokens."
    ),
    click.option("--min-new-tokens", type=int, default=0, help="No stop token before so many tokens."),
    click.option("--temperature", type=float, help="Below 1 is safer, above 1 wilder, 0 greedy.  [default: 1.0]"),
    click.option("--top-k", type=int, help="Draw from the K likeliest tokens.  [default: from all]"),
    click.option(
        "--top-p", type=float, help="Draw from the likeliest tokens that have this much probability together."
    ),
    click.option("--min-p", type=float, help="Draw from the tokens at least this share as probable as the likeliest."),
    click.option("--typical-p", type=float, help="Draw from the least surprising tokens that have this much together."),
    click.option(
        "--repetition-penalty", type=float, default=1.0, help="Above 1 makes the tokens of the text less likely."
    ),
    click.option("--frequency-penalty", type=float, default=0.0, help="Off a new token's logit, each time it came."),
    click.option("--presence-penalty", type=float, default=0.0, help="Off the logit of each new token, once."),
    click.option("--no-repeat-ngram-size", type=int, metavar="N", help="No run of N tokens comes twice."),
    click.option(
        "--logit-bias",
        multiple=True,
        metavar="ID=BIAS",
        callback=_bias,
        help="Onto a token's logit, -inf forbids it; may be repeated.",
    ),
    click.option("--bad-word", "bad_words", multiple=True, help="Never this text's tokens; may be repeated."),
    click.option("--stop", multiple=True, help="End before this text; may be repeated."),
    click.option(
        "--stop-token-id",
        "stop_token_ids",
        type=int,
        multiple=True,
        help="End at this token; may be repeated.  [default: end-of-text]",
    ),
    click.option(
        "--overflow",
        type=click.Choice(["error", "truncate", "slide"]),
        default="error",
        show_default=True,
        help="Of a text longer than the model reads: refuse it, keep the prompt's end, or read on from the last half.",
    ),
    click.option("--logprobs", type=int, metavar="N", help="Tell each token's log-probability, and the N likeliest."),
    click.option("--prompt-logprobs", type=int, metavar="N", help="Tell those of the prompt's tokens, too."),
    click.option("-n", "n", type=int, default=1, show_default=True, help="So many continuations; one reading."),
)


def continuation(command: Command) -> Command:
    """Gives a command the options that say how a prompt is continued; `settings` makes settings of them."""
    for option in reversed(_continuation):
        command = option(command)
    return command


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
