"""The command gpt2-runtime: each subcommand parses its options, makes one call, and prints."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

COMMANDS = ("generate", "batch", "score", "explain", "inspect", "bench")  # each in the module of its name


class _Commands(click.Group):
    """Loads only the requested subcommand, so that the first token does not wait for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"gpt2_runtime.cli.{cmd_name}"), cmd_name)
        return command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Like click's, but if --help cannot be written, that is reported in one line too."""
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
