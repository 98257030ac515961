"""Where the command `gpt2-export` starts: first what ends it early is answered, then everything else is imported."""

from gpt2_export.cli import interruption


def main() -> None:
    """The command."""
    interruption.install()
    from gpt2_export.cli.command import main as command

    try:
        command()
    finally:
        interruption.finish()
