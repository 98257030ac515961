"""The entry point of `gpt2-runtime`: installs the signal handlers, then imports everything else."""

import gc

from gpt2_runtime.cli import interruption

# What is imported stays, so collecting in the middle of it finds nothing: by default that is 3 % of a start.
OBJECTS = 50_000


def main() -> None:
    """The command."""
    interruption.install()
    gc.set_threshold(OBJECTS)
    from gpt2_runtime.cli.command import main as command

    try:
        command()
    finally:
        interruption.finish()
