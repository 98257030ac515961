"""`gpt2-runtime inspect`."""

from __future__ import annotations

import click

from gpt2_runtime.cli import options
from gpt2_runtime.cli.streams import print_json
from gpt2_runtime.diagnostics import inspection
from gpt2_runtime.diagnostics.load_stats import load
from gpt2_runtime.graphs.graph_signature import GraphKind


@click.command()
@options.folder
@click.option("--load", "with_loading", is_flag=True, help="Also show the time and memory that loading takes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.precision
@options.provider
@options.threads
@options.graph
@options.check_hashes
@options.guarded
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
    """Shows what FOLDER contains: origin, sizes, inputs and outputs, tokens, parity.

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
        print_json(inspection.report(*opened))
    else:
        for line in inspection.lines(*opened):
            click.echo(line)
