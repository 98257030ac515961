"""`gpt2-runtime generate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from gpt2_runtime.cli import options
from gpt2_runtime.cli.streams import print_json, read_text
from gpt2_runtime.graphs.graph_signature import GraphKind
from gpt2_runtime.text.generator import BeamCompletion, TextGenerator, TextStream

if TYPE_CHECKING:
    from gpt2_runtime.generation.beam_search import EarlyStopping

EARLY_STOPPING: dict[str, EarlyStopping] = {"no": False, "yes": True, "never": "never"}


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
@options.continuation
@options.seed
@click.option(
    "--num-beams", type=int, metavar="K", help="Search for the most likely text with K beams, without sampling."
)
@click.option("--length-penalty", type=float, help="With beams: above 0 favours longer texts.  [default: 1.0]")
@click.option(
    "--early-stopping",
    type=click.Choice(list(EARLY_STOPPING)),
    help="With beams: yes stops when K texts have ended, never only when none can improve.  [default: no]",
)
@options.lookup
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of streaming text.")
@options.precision
@options.provider
@options.threads
@options.graph
@options.cuda_graph
@options.fast_single
@options.check_hashes
@options.guarded
def generate(
    folder: str,
    prompt: str | None,
    prompt_ids: list[int] | None,
    n: int,
    seed: int | None,
    num_beams: int | None,
    length_penalty: float | None,
    early_stopping: str | None,
    lookup: bool,
    as_json: bool,
    precision: str | None,
    provider: str,
    threads: int | None,
    graph: GraphKind | None,
    cuda_graph: bool,
    fast_single: bool,
    check_hashes: bool,
    **continuation: Any,
) -> None:
    """Continues PROMPT and prints the new text as it is generated.

    If PROMPT is -, it is read from standard input, unchanged. By default, tokens are sampled from the model's own
    distribution; --temperature 0.8 --top-k 40 gives safer text, --temperature 0 always the same.

    \b
    Examples:
      gpt2-runtime generate out/demo "To be, or not to be"
      printf 'ROMEO:' | gpt2-runtime generate out/demo - --stop "JULIET:" --seed 7
      gpt2-runtime generate out/gpt2 --prompt-ids 464,3290 --temperature 0 --json
    """
    source = prompt if prompt_ids is None else prompt_ids
    if source is None or None not in (prompt, prompt_ids):
        raise click.UsageError("Give either PROMPT or --prompt-ids.")
    if num_beams is None and (length_penalty, early_stopping) != (None, None):
        raise click.UsageError("--length-penalty and --early-stopping need beams; add --num-beams.")
    if n > 1 and not as_json:
        raise click.UsageError(f"-n is {n}, but only one text can be streamed; add --json.")
    if not as_json and (continuation["logprobs"], continuation["prompt_logprobs"]) != (None, None):
        raise click.UsageError("--logprobs and --prompt-logprobs need --json; add it.")
    if lookup and num_beams is not None:
        raise click.UsageError("--lookup has no effect on a beam search; leave out one of --lookup and --num-beams.")
    # Check settings before loading the model, so that a typo is reported at once.
    settings = options.settings({**continuation, "seed": seed})
    generator = TextGenerator.open(
        folder,
        precision=precision,
        provider=provider,
        threads=threads,
        graph=graph,
        cuda_graph=cuda_graph,
        fast_single=fast_single,
        prepack=False,
        load="auto",
        check_hashes=check_hashes,
    )
    text = read_text("-") if source == "-" else source
    drafts = options.note_lookup(generator.session, lookup)
    if num_beams is not None:
        stopping = EARLY_STOPPING[early_stopping or "no"]
        penalty = 1.0 if length_penalty is None else length_penalty
        completions = generator.search(
            text, num_beams=num_beams, n=n, length_penalty=penalty, early_stopping=stopping, **settings
        )
        _print_hints(continuation)
        print_json({"beams": [asdict(each) for each in completions]}) if as_json else _print_best(completions)
        return
    if n != 1:
        from gpt2_runtime.text.batch import complete  # which one text need not wait for

        documents = [
            completion.to_dict(generator.tokenizer)
            for completion in complete(generator, text, n, settings, lookup=drafts)
        ]
        _print_hints(continuation)
        print_json({"completions": documents})
        return
    stream = generator.stream(text, lookup=drafts, **settings)
    _print_hints(continuation)  # only now, since an error must be the only line
    if as_json:
        for _ in stream:
            pass
        print_json(stream.completion.to_dict(generator.tokenizer))
    else:
        _print_text(stream)


def _print_hints(continuation: Mapping[str, Any]) -> None:
    for hint in options.hints(continuation):
        click.echo(hint, err=True)


def _print_text(stream: TextStream) -> None:
    for piece in stream:
        click.echo(piece, nl=False)  # which flushes
    if stream.completion.text is None:
        _print_ids(stream.completion.token_ids)
    click.echo()


def _print_best(completions: tuple[BeamCompletion, ...]) -> None:
    if completions[0].text is None:
        _print_ids(completions[0].token_ids)
    click.echo(completions[0].text or "")


def _print_ids(token_ids: tuple[int, ...]) -> None:
    click.echo("note: the folder has no supported tokenizer, so these are token ids", err=True)
    click.echo(",".join(map(str, token_ids)), nl=False)
