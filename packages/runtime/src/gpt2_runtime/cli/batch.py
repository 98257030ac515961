"""`gpt2-runtime batch`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import BinaryIO

import click

from gpt2_runtime.batch_file.file import Progress, is_empty, lines_of, run
from gpt2_runtime.batch_file.line import Defaults
from gpt2_runtime.cli import options
from gpt2_runtime.cli.progress import Bar
from gpt2_runtime.cli.streams import output_path, standard_input
from gpt2_runtime.errors import GPT2RuntimeError, JobError
from gpt2_runtime.folder.regular_file import is_same_file
from gpt2_runtime.generation.config import DEFAULTS, Settings
from gpt2_runtime.generation.scheduler import ROWS
from gpt2_runtime.graphs.graph_signature import GraphKind
from gpt2_runtime.text.generator import TextGenerator

PREFIX_MB = 100
# Part of each answer's digest even if no option sets them, so that a file begun earlier can be resumed.
OF_THE_COMMAND: Settings = {
    "max_new_tokens": DEFAULTS.max_new_tokens,
    "stop": DEFAULTS.stop,
    "stop_token_ids": DEFAULTS.stop_token_ids,
    "bad_words": DEFAULTS.bad_words,
    "overflow": DEFAULTS.overflow,
    "logprobs": DEFAULTS.logprobs,
    "prompt_logprobs": DEFAULTS.prompt_logprobs,
}
STDIN = 0  # the file descriptor


@click.command()
@options.folder
@click.argument("source", metavar="INPUT")
@click.argument("target", metavar="OUTPUT", type=click.Path())
@click.option("--rows", type=int, default=ROWS, show_default=True, help="Continue this many prompts at once.")
@click.option(
    "--prefix-mb",
    type=click.IntRange(min=0),
    default=PREFIX_MB,
    show_default=True,
    help="Memory to cache prompts for later ones with the same start; 0 disables the cache.",
)
@options.continuation
@click.option("--seed", type=int, default=0, show_default=True, help="Seed, combined with each line's number.")
@options.lookup
@options.precision
@options.provider
@options.threads
@options.graph
@options.cuda_graph
@options.fast_single
@options.check_hashes
@options.guarded
def batch(
    folder: str,
    source: str,
    target: str,
    rows: int,
    prefix_mb: int,
    n: int,
    seed: int,
    lookup: bool,
    precision: str | None,
    provider: str,
    threads: int | None,
    graph: GraphKind | None,
    cuda_graph: bool,
    fast_single: bool,
    check_hashes: bool,
    **continuation: object,
) -> None:
    """Continues the prompts of INPUT, one JSON object per line, and writes a line to OUTPUT as each one finishes.

    A line of INPUT has a "prompt" or "token_ids", an "id" (by default its number), and any settings by name, which
    override the options: {"id": "a", "prompt": "To be", "temperature": 0.8, "stop": ["\\n"]}. If INPUT is -, it is read
    from standard input. Lines that OUTPUT already answers are skipped: after an interruption, run the same command
    again. A bad line is reported by its number, the others are processed, and the exit status is 1.

    \b
    Examples:
      gpt2-runtime batch out/gpt2 prompts.jsonl answers.jsonl
      gpt2-runtime batch out/gpt2 - answers.jsonl --rows 16 --max-new-tokens 200 --temperature 0.8 < prompts.jsonl
    """
    defaults = Defaults(settings={**OF_THE_COMMAND, **options.settings(continuation)}, n=n, seed=seed)
    output = output_path("OUTPUT", target)
    if is_same_file(STDIN if source == "-" else source, output):
        raise JobError(f"OUTPUT is {target}, the same file as INPUT; name another OUTPUT")
    with _lines(source) as (lines, count):
        generator = TextGenerator.open(
            folder,
            precision=precision,
            provider=provider,
            threads=threads,
            graph=graph,
            cuda_graph=cuda_graph,
            fast_single=fast_single,
            prefix_bytes=prefix_mb * 10**6 or None,
            check_hashes=check_hashes,
        )
        drafts = options.note_lookup(generator.session, lookup)
        with Bar("batch", count) as bar:
            report = _Report(bar, source, options.hints(continuation))
            done = run(
                generator,
                lines,
                output,
                defaults=defaults,
                rows=rows,
                lookup=drafts,
                progress=report.show,
                refused=report.refuse,
            )
    summary = f"{done.answered} answered, {done.tokens} tokens, {report.pace(done):.0f} tokens/s"
    click.echo(f"{summary}; {done.kept} already done, {done.failed} failed", err=True)
    if done.failed:
        sys.exit(1)


@contextmanager
def _lines(source: str) -> Iterator[tuple[Iterator[bytes], int | None]]:
    """The lines of INPUT, and their number if it is known."""
    if source == "-":
        yield _read(source, standard_input()), None
        return
    with _reading(source):
        file = Path(source).open("rb")  # noqa: SIM115 - closed below, where other errors are not this file's
    with file:
        count = None
        with _reading(source):
            if file.seekable():
                count = sum(1 for line in lines_of(file) if not is_empty(line))
                file.seek(0)
        yield _read(source, file), count


def _read(source: str, file: BinaryIO) -> Iterator[bytes]:
    with _reading(source):
        yield from lines_of(file)


@contextmanager
def _reading(source: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JobError(f"{source} cannot be read: {error.strerror or error}") from error
    except JobError as error:  # not a file of lines
        raise JobError(f"{source}: {error}") from error


class _Report:
    """Shows progress on stderr if that is a terminal, and hints and bad lines always."""

    def __init__(self, bar: Bar, source: str, hints: Iterator[str]) -> None:
        self._bar = bar
        self._source = source
        self._hints = hints
        self._start = perf_counter()

    def show(self, state: Progress) -> None:
        for hint in self._hints:  # once, and only if a line is accepted
            self._bar.line(hint)
        self._bar.show(state.lines, f"{self.pace(state):.0f} tokens/s")

    def pace(self, state: Progress) -> float:
        """New tokens per second since the model was loaded."""
        return state.tokens / (perf_counter() - self._start)

    def refuse(self, line: int, error: GPT2RuntimeError) -> None:
        self._bar.line(f"error: {self._source} line {line}: {options.in_options(' '.join(str(error).split()))}")
