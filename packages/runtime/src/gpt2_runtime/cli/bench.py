"""`gpt2-runtime bench`."""

from __future__ import annotations

from dataclasses import asdict

import click

from gpt2_runtime.cli import options
from gpt2_runtime.cli.progress import Bar
from gpt2_runtime.cli.streams import print_json
from gpt2_runtime.diagnostics.bench import ROUNDS
from gpt2_runtime.diagnostics.bench import bench as measure
from gpt2_runtime.diagnostics.bench import lines as report_lines
from gpt2_runtime.graphs.graph_signature import GraphKind


@click.command()
@options.folder
@click.option("--context", "contexts", type=int, multiple=True, help="Decode after this many tokens. Repeatable.")
@click.option("--batch", "batches", type=int, multiple=True, help="Decode this many rows at once. Repeatable.")
@click.option("--rounds", type=int, default=ROUNDS, show_default=True, help="Number of rounds to take the median of.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.precision
@options.provider
@options.threads
@options.graph
@options.cuda_graph
@options.fast_single
@options.guarded
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
    cuda_graph: bool,
    fast_single: bool,
) -> None:
    """Measures how fast this machine runs FOLDER.

    Prefill is the time from a prompt to its first token. Decoding is measured after several contexts and in batches,
    and shown as a share of the roofline: a step must read all weights and all cached keys and values, so it takes at
    least as long as memory needs for that, at the highest bandwidth of all rounds. No share is shown where a step is
    faster: then the processor's caches hold the model. On cuda the bandwidth is that of a copy on the device, reads and
    writes counted.

    \b
    Examples:
      gpt2-runtime bench out/gpt2
      gpt2-runtime bench out/gpt2 --context 100 --batch 1 --batch 4 --threads 2 --json
    """
    with Bar("bench") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.show(done)

        report = measure(
            folder,
            precision=precision,
            provider=provider,
            threads=threads,
            graph=graph,
            cuda_graph=cuda_graph,
            fast_single=fast_single,
            contexts=contexts or None,
            batches=batches or None,
            rounds=rounds,
            progress=progress,
        )
    if as_json:
        print_json(asdict(report))
    else:
        for line in report_lines(report):
            click.echo(line)
