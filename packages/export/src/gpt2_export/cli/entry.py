"""The entry point of `gpt2-export`: installs the signal handlers, then imports everything else."""

from gpt2_export.cli import interruption


def main() -> None:
    """The command."""
    interruption.install()
    from gpt2_export.cli.command import main as command

    try:
        command()
    finally:
        interruption.finish()
