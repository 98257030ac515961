"""The command gpt2-runtime: each subcommand reads its options, makes one call, prints."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import NoReturn

import click

from gpt2_runtime import inspection
from gpt2_runtime.bench import BATCHES, ROUNDS
from gpt2_runtime.bench import bench as measure
from gpt2_runtime.bench import lines as report_lines
from gpt2_runtime.bundle import PRECISIONS
from gpt2_runtime.errors import Gpt2RuntimeError, PromptError
from gpt2_runtime.loading import load
from gpt2_runtime.lookup import LookupConfig
from gpt2_runtime.providers import PROVIDERS
from gpt2_runtime.sampling import SamplingConfig
from gpt2_runtime.signature import GraphKind
from gpt2_runtime.text import MAX_NEW_TOKENS, Completion, TextGenerator, TextStream

INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gpt2-runtime")
def main() -> None:
    """Generates text with an exported GPT-2 folder, in onnxruntime, without PyTorch.

    FOLDER is what `gpt2-export make SOURCE FOLDER` wrote.
    """


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command --debug, and without it one line on stderr for whatever goes wrong."""

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(command)
    def guarded(*, debug: bool, **options: object) -> None:
        try:
            command(**options)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise  # click's own business: usage errors exit with 2, a closed pipe quietly
        except Exception as error:
            if debug:
                raise
            _fail(error)

    return guarded


def _fail(error: Exception) -> NoReturn:
    message = " ".join(str(error).split())
    if not isinstance(error, Gpt2RuntimeError):
        message = f"unexpected {type(error).__name__}: {message}; run again with --debug for the traceback"
    click.echo(f"error: {message}", err=True)
    sys.exit(1)


def _token_ids(_: click.Context, __: click.Parameter, value: str | None) -> list[int] | None:
    try:
        return None if value is None else [int(id_) for id_ in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of integers such as 464,3290") from error


_folder = click.argument("folder")
_precision = click.option(
    "--precision", type=click.Choice(PRECISIONS), help="Of the weights.  [default: the most exact one in FOLDER]"
)
_provider = click.option(
    "--provider", type=click.Choice(list(PROVIDERS)), default="cpu", show_default=True, help="Where the model runs."
)
_threads = click.option("--threads", type=int, help="Threads of one operator.  [default: the CPUs it may use]")
_graph = click.option(
    "--graph",
    type=click.Choice(["serving", "portable"]),
    help="Which of the folder's graphs.  [default: serving on the CPU, if FOLDER has it]",
)
_check_hashes = click.option(
    "--check-hashes", is_flag=True, help="First compare every file with the manifest's SHA-256."
)


@main.command()
@_folder
@click.argument("prompt", required=False)
@click.option("--prompt-ids", metavar="IDS", callback=_token_ids, help="Token ids instead of PROMPT, such as 464,3290.")
@click.option("--max-new-tokens", type=int, default=MAX_NEW_TOKENS, show_default=True, help="At most this many tokens.")
@click.option(
    "--temperature", type=float, default=1.0, show_default=True, help="Below 1 is safer, above 1 wilder, 0 greedy."
)
@click.option("--top-k", type=int, help="Draw from the K likeliest tokens.  [default: from all]")
@click.option("--top-p", type=float, help="Draw from the likeliest tokens that have this much probability together.")
@click.option("--seed", type=int, help="Repeat the draws of this number.  [default: random; --json tells it]")
@click.option("--stop", multiple=True, help="End before this text; may be given several times.")
@click.option("--truncate", is_flag=True, help="Of a prompt that is too long keep the last tokens the model can read.")
@click.option(
    "--lookup", is_flag=True, help="Guess words from what came before: the same text, sooner where it repeats itself."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of streaming text.")
@_precision
@_provider
@_threads
@_graph
@_check_hashes
@_guarded
def generate(
    folder: str,
    prompt: str | None,
    prompt_ids: list[int] | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    stop: tuple[str, ...],
    truncate: bool,
    lookup: bool,
    as_json: bool,
    precision: str | None,
    provider: str,
    threads: int | None,
    graph: GraphKind | None,
    check_hashes: bool,
) -> None:
    """Continues PROMPT and prints the new text as it comes.

    PROMPT - reads standard input to its end, as it is. The defaults draw from GPT-2's own distribution, as it was
    trained; --temperature 0.8 --top-k 40 gives safer text, --temperature 0 always the same.

    \b
    Examples:
      gpt2-runtime generate out/demo "To be, or not to be"
      printf 'ROMEO:' | gpt2-runtime generate out/demo - --stop "JULIET:" --seed 7
      gpt2-runtime generate out/gpt2 --prompt-ids 464,3290 --temperature 0 --json
    """
    given = prompt if prompt_ids is None else prompt_ids
    if given is None or None not in (prompt, prompt_ids):
        raise click.UsageError("Give either PROMPT or --prompt-ids.")
    # Settings are checked before the model is loaded: a mistyped number should not cost a wait.
    sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    generator = TextGenerator.open(
        folder,
        precision=precision,
        provider=provider,
        threads=threads,
        graph=graph,
        prepack=False,
        check_hashes=check_hashes,
    )
    stream = generator.stream(
        _standard_input() if given == "-" else given,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seed=seed,
        stop=stop,
        overflow="truncate" if truncate else "error",
        lookup=LookupConfig() if lookup else None,
    )
    _print_json(stream) if as_json else _print_text(stream)


@main.command()
@_folder
@click.option("--load", "with_loading", is_flag=True, help="Tell the time and memory that loading took, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_precision
@_provider
@_threads
@_graph
@_check_hashes
@_guarded
def inspect(
    folder: str,
    with_loading: bool,
    as_json: bool,
    precision: str | None,
    provider: str,
    threads: int | None,
    graph: GraphKind | None,
    check_hashes: bool,
) -> None:
    """Shows what FOLDER holds: origin, sizes, inputs and outputs, tokens, parity.

    \b
    Examples:
      gpt2-runtime inspect out/demo --check-hashes
      gpt2-runtime inspect out/demo --load
    """
    generator, cost = load(
        folder, precision=precision, provider=provider, threads=threads, graph=graph, check_hashes=check_hashes
    )
    opened = generator.session, generator.tokenizer, cost if with_loading else None
    if as_json:
        click.echo(json.dumps(inspection.report(*opened), ensure_ascii=False))
    else:
        for line in inspection.lines(*opened):
            click.echo(line)


@main.command()
@_folder
@click.option("--context", "contexts", type=int, multiple=True, help="Decode after this many tokens; may be repeated.")
@click.option("--batch", "batches", type=int, multiple=True, help="Decode this many rows at once; may be repeated.")
@click.option("--rounds", type=int, default=ROUNDS, show_default=True, help="Take the median of this many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_precision
@_provider
@_threads
@_graph
@_guarded
def bench(
    folder: str,
    contexts: tuple[int, ...],
    batches: tuple[int, ...],
    rounds: int,
    as_json: bool,
    precision: str | None,
    provider: str,
    threads: int | None,
    graph: GraphKind | None,
) -> None:
    """Measures how fast this machine runs FOLDER.

    Prefill is the time from a prompt to its first token. Decoding is measured after several contexts and in batches,
    and as a share of the read roofline: a step reads all weights and all cached keys and values, and memory gives them
    no faster than it is read. More than all of it is reached by a model that the processor's caches hold.

    \b
    Examples:
      gpt2-runtime bench out/gpt2
      gpt2-runtime bench out/gpt2 --context 100 --batch 1 --batch 4 --threads 2 --json
    """
    with click.progressbar(length=1, label="bench", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        report = measure(
            folder,
            precision=precision,
            provider=provider,
            threads=threads,
            graph=graph,
            contexts=contexts or None,
            batches=batches or BATCHES,
            rounds=rounds,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(asdict(report)))
    else:
        for line in report_lines(report):
            click.echo(line)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise PromptError(f"standard input is not UTF-8 at byte {error.start}; convert it, e.g. with iconv") from error


def _print_text(stream: TextStream) -> None:
    for piece in stream:
        click.echo(piece, nl=False)  # which flushes
    if stream.completion.text is None:
        click.echo("note: the folder has no tokenizer, so these are token ids", err=True)
        click.echo(",".join(map(str, stream.completion.token_ids)), nl=False)
    click.echo()


def _print_json(stream: TextStream) -> None:
    for _ in stream:
        pass
    click.echo(json.dumps(_json(stream.completion), ensure_ascii=False))


def _json(completion: Completion) -> dict[str, object]:
    timings = asdict(completion.timings) | {"tokens_per_second": completion.timings.tokens_per_second}
    return asdict(completion) | {"timings": timings}
