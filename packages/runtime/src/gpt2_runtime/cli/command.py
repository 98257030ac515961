"""The command gpt2-runtime: each subcommand reads its options, makes one call, prints."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

COMMANDS = ("generate", "batch", "score", "explain", "inspect", "bench")  # each in the module of its name


class _Commands(click.Group):
    """Loads the subcommand that is asked for, and what that needs: the first token should not wait for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"gpt2_runtime.cli.{cmd_name}"), cmd_name)
        return command

    def main(self, *args: Any, **extra: Any) -> Any:
        """click's, but that --help too tells in one line if it cannot be written."""
        try:
            return super().main(*args, **extra)
        except OSError as error:
            from gpt2_runtime.cli.options import fail

            fail(error)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gpt2-runtime")
def main() -> None:
    """Generates text with an exported GPT-2 folder, in onnxruntime, without PyTorch.

    FOLDER is what `gpt2-export make SOURCE FOLDER` wrote.
    """
