"""`gpt2-runtime generate`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from gpt2_runtime.cli import options
from gpt2_runtime.errors import PromptError
from gpt2_runtime.lookup import LookupConfig
from gpt2_runtime.sampling import SamplingConfig
from gpt2_runtime.signature import GraphKind
from gpt2_runtime.text import MAX_NEW_TOKENS, Completion, TextGenerator, TextStream


def token_ids(_: click.Context, __: click.Parameter, value: str | None) -> list[int] | None:
    """The value of --prompt-ids."""
    try:
        return None if value is None else [int(id_) for id_ in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of integers such as 464,3290") from error


@click.command()
@options.folder
@click.argument("prompt", required=False)
@click.option("--prompt-ids", metavar="IDS", callback=token_ids, help="Token ids instead of PROMPT, such as 464,3290.")
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
@options.precision
@options.provider
@options.threads
@options.graph
@options.check_hashes
@options.guarded
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
        standard_input() if given == "-" else given,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seed=seed,
        stop=stop,
        overflow="truncate" if truncate else "error",
        lookup=LookupConfig() if lookup else None,
    )
    _print_json(stream) if as_json else _print_text(stream)


def standard_input() -> str:
    """All of it, which must be UTF-8."""
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
