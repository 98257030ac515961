"""The entry point of `gpt2-runtime`: installs the signal handlers, then imports everything else."""

from gpt2_runtime.cli import interruption


def main() -> None:
    """The command."""
    interruption.install()
    from gpt2_runtime.cli.command import main as command

    try:
        command()
    finally:
        interruption.finish()
