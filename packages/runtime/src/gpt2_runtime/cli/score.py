"""`gpt2-runtime score`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from time import perf_counter

import click

from gpt2_runtime.cli import options
from gpt2_runtime.cli.progress import Bar
from gpt2_runtime.cli.streams import print_json, read_text
from gpt2_runtime.errors import EmptyPromptError, counted
from gpt2_runtime.graphs.graph_signature import GraphKind
from gpt2_runtime.scoring.perplexity import Perplexity, score_windows, window_and_stride, windows
from gpt2_runtime.scoring.score import UNSCORED, TokenScore
from gpt2_runtime.text.completion import token_to_dict
from gpt2_runtime.text.generator import TextGenerator
from gpt2_runtime.tokenizer.tokenizer import Tokenizer, refusal

MOST_TEXT_BYTES = 16_000_000  # some four million tokens; if each were of one byte, their ids would take 300 MB


@click.command()
@options.folder
@click.argument("file")
@click.option("--stride", type=int, help="Tokens from the start of one window to the next.  [default: half a window]")
@click.option("--window", type=int, help="Tokens per window.  [default: the model's context]")
@click.option("--per-token", is_flag=True, help="Print a line of JSON for each token, then the line of --json.")
@click.option("--top", type=int, default=0, help="With --per-token, also show this many of the likeliest tokens.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.precision
@options.provider
@options.threads
@options.graph
@options.check_hashes
@options.guarded
def score(
    folder: str,
    file: str,
    stride: int | None,
    window: int | None,
    per_token: bool,
    top: int,
    as_json: bool,
    precision: str | None,
    provider: str,
    threads: int | None,
    graph: GraphKind | None,
    check_hashes: bool,
) -> None:
    """Shows how likely the text of FILE is: log-likelihood, perplexity, bits per byte.

    If FILE is -, the text is read from standard input. It is read in windows, and each window scores its new tokens, as
    in transformers' page "Perplexity of fixed-length models". A smaller stride gives each token more context and takes
    longer. To compare with OpenAI's figures, use --stride 1024, where windows do not overlap. <|endoftext|> in FILE is
    that token.

    \b
    Examples:
      gpt2-runtime score out/gpt2 wikitext-2-test.txt --stride 1024
      printf 'To be, or not to be' | gpt2-runtime score out/demo - --per-token --top 3
    """
    if top and not per_token:
        raise click.UsageError("--top needs --per-token; add it.")
    text = read_text(file, MOST_TEXT_BYTES)  # before loading the model, so that a typo is reported at once
    opened = TextGenerator.open(
        folder, precision=precision, provider=provider, threads=threads, graph=graph, check_hashes=check_hashes
    )
    session, tokenizer = opened.session, opened.tokenizer
    if tokenizer is None:
        raise refusal(session.bundle.folder)
    ids = tokenizer.encode(text)
    if len(ids) < 2:
        raise EmptyPromptError(f"{_name(file)} has {counted(len(ids), 'token')}, must have at least 2; {UNSCORED}")
    size, step = window_and_stride(session, window, stride)
    total = sum(part.end - part.begin for part in windows(len(ids), size, step))
    result, scored_bytes, read = Perplexity(), 0, 0
    start = perf_counter()
    with Bar("score", total) as bar:
        for part, scores in score_windows(session, ids, window=size, stride=step, top=top):
            result = result.after(scores)
            scored_bytes += _bytes(tokenizer, scores)
            if per_token:
                bar.wipe()
                for token in scores:
                    print_json(token_to_dict(tokenizer, token))
            read += part.end - part.begin
            bar.show(read, _pace(read, total, perf_counter() - start))
    seconds = perf_counter() - start
    report = _report(result, scored_bytes, window=size, stride=step, tokens_per_second=total / seconds)
    if as_json or per_token:
        # JSON has no infinity, which the perplexity of a damaged model can reach.
        print_json({name: None if figure == math.inf else figure for name, figure in report.items()})
    else:
        for line in _lines(report):
            click.echo(line)


def _pace(read: int, total: int, seconds: float) -> str:
    """
    >>> _pace(50, 200, 2.0)
    '25 tokens/s, 6 s left'
    """
    return f"{read / seconds:.0f} tokens/s, {seconds * (total - read) / read:.0f} s left"


def _name(file: str) -> str:
    return "standard input" if file == "-" else file


def _bytes(tokenizer: Tokenizer, scores: Sequence[TokenScore]) -> int:
    return sum(len(tokenizer.token_bytes(token.id)) for token in scores if token.logprob is not None)


def _report(result: Perplexity, scored_bytes: int, **run: float) -> dict[str, float]:
    return {
        "tokens": result.tokens,
        "scored_tokens": result.scored_tokens,
        "log_likelihood": result.log_likelihood,
        "perplexity": result.perplexity,
        "token_perplexity": result.token_perplexity,
        "bits_per_byte": result.bits_per_byte(scored_bytes),
        "windows": result.windows,
        **run,
    }


def _lines(report: dict[str, float]) -> Iterator[str]:
    """The report for people."""
    yield f"tokens          {report['tokens']:,}, {report['scored_tokens']:,} of them scored"
    yield f"windows         {report['windows']:,} of {report['window']:,}, one every {report['stride']:,} tokens"
    yield f"log-likelihood  {report['log_likelihood']:,.4f}"
    yield f"perplexity      {report['perplexity']:,.4f}; {report['token_perplexity']:,.4f} if each token counts once"
    yield f"bits per byte   {report['bits_per_byte']:.4f}"
    yield f"tokens/s        {report['tokens_per_second']:,.1f}"
