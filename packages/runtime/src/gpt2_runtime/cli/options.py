"""What the commands share: the arguments and options of a folder, and how an error is told."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import NoReturn

import click

from gpt2_runtime.bundle import PRECISIONS
from gpt2_runtime.errors import Gpt2RuntimeError
from gpt2_runtime.providers import PROVIDERS

INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended


def guarded(command: Callable[..., None]) -> Callable[..., None]:
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
                raise
            _fail(error)

    return wrapped


def _fail(error: Exception) -> NoReturn:
    message = " ".join(str(error).split())
    if not isinstance(error, Gpt2RuntimeError):
        message = f"unexpected {type(error).__name__}: {message}; run again with --debug for the traceback"
    click.echo(f"error: {message}", err=True)
    sys.exit(1)


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
check_hashes = click.option(
    "--check-hashes", is_flag=True, help="First compare every file with the manifest's SHA-256."
)
