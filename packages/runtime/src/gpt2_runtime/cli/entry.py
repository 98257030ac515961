"""Where the command `gpt2-runtime` starts: first what ends it early is answered, then everything else is imported."""

from gpt2_runtime.cli import interruption


def main() -> None:
    """The command."""
    interruption.install()
    from gpt2_runtime.cli.command import main as command

    try:
        command()
    finally:
        interruption.finish()
