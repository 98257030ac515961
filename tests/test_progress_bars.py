"""The two commands, which share no code, show progress in the same way."""

import io

from gpt2_export.progress import progress_for
from gpt2_runtime.cli.progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_both_bars_look_the_same() -> None:
    exports, runtimes = Terminal(), Terminal()
    progress = progress_for(exports)
    for done in (0, 1, 3):
        progress("score", done, 4)
    progress("score", 4, 4)
    with Bar("score", 4, runtimes) as bar:
        for done in (0, 1, 3):
            bar.show(done)
    assert runtimes.getvalue() == exports.getvalue()
    assert runtimes.getvalue().endswith("\r\033[Kscore: done in 0.0 s\n")
