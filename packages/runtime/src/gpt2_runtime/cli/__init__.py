"""The command gpt2-runtime: each subcommand reads its options, makes one call, prints."""

from __future__ import annotations

import click

from gpt2_runtime.cli.batch import batch
from gpt2_runtime.cli.bench import bench
from gpt2_runtime.cli.explain import explain
from gpt2_runtime.cli.generate import generate
from gpt2_runtime.cli.inspect import inspect
from gpt2_runtime.cli.score import score


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gpt2-runtime")
def main() -> None:
    """Generates text with an exported GPT-2 folder, in onnxruntime, without PyTorch.

    FOLDER is what `gpt2-export make SOURCE FOLDER` wrote.
    """


for command in (generate, batch, score, explain, inspect, bench):
    main.add_command(command)
