"""Measures gpt2-runtime beside its peers and writes the table, the chart and the raw records.

Runs one work after another on every runtime in turn, round after round, each runtime in its own process and its own
environment, on the same random GPT-2 124M weights and the same token ids. Environments and converted models are made
at the first run and kept in --work (about 8 GB; llama.cpp is compiled, which takes minutes). Keep the
machine quiet meanwhile: one process computes at a time, and ratios are taken within a round.
"""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from chart import chart
from environments import installed_version, prepare
from machine import Machine
from models import Models, bytes_a_token, megabytes, our_megabytes, our_precisions
from peers import HERE, OURS, PRECISIONS, ROOT, Peer, Variant, read_peers
from processes import PeerError, ended_by_signals
from records import Run, read_run, write_run
from rounds import Bench
from table import table
from works import FIGURES, WORKS

QUICK_WORKS = ["decode", "prefill", "start"]


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit code."""
    options = parse(arguments)
    peers = read_peers()
    if options.show:
        run = read_run(options.out / "records.jsonl")
    else:
        try:
            with ended_by_signals():
                run = measure(options, peers)
        except KeyboardInterrupt:
            tell("interrupted; nothing was written")
            return 130
        except PeerError as error:
            tell(f"gpt2-runtime itself failed, and every ratio is against it: {error}; see {options.work / 'logs'}")
            return 1
    options.out.mkdir(parents=True, exist_ok=True)
    write_run(run, options.out / "records.jsonl")
    (options.out / "table.md").write_text(table(run, peers), encoding="utf-8")
    (options.out / "chart.svg").write_text(chart(run, peers), encoding="utf-8")
    print(table(run, peers), end="")
    return 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """
    >>> parse(["--quick"]).rounds, parse([]).rounds
    (1, 5)
    """
    names = list(read_peers())
    parser = argparse.ArgumentParser(
        prog="python benchmarks/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help="how often each work is done by each runtime (default: 5)")
    parser.add_argument(
        "--peers",
        type=_names(names),
        default=names,
        metavar="NAME,...",
        help=f"of {', '.join(names)}; ours always",
    )
    parser.add_argument(
        "--precisions",
        type=_names(list(PRECISIONS)),
        default=list(PRECISIONS),
        metavar="NAME,...",
        help=f"of {', '.join(PRECISIONS)}",
    )
    parser.add_argument("--works", type=_names(list(WORKS)), metavar="NAME,...", help=f"of {', '.join(WORKS)}")
    parser.add_argument("--threads", type=int, default=2, help="of every runtime (default: 2)")
    parser.add_argument(
        "--quick", action="store_true", help=f"one round of {', '.join(QUICK_WORKS)}, written to benchmarks/trial"
    )
    parser.add_argument("--show", action="store_true", help="measure nothing; make table and chart of the records")
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / ".tox" / "bench-peers",
        help="environments and models (default: .tox/bench-peers)",
    )
    parser.add_argument("--out", type=Path, help="where the results go (default: benchmarks/results)")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.works = options.works or (QUICK_WORKS if options.quick else list(WORKS))
    options.out = options.out or HERE / ("trial" if options.quick else "results")
    options.work = options.work.resolve()
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    return options


def _names(known: list[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return [name for name in known if name in chosen]

    return names


def measure(options: argparse.Namespace, peers: dict[str, Peer]) -> Run:
    """Environments, models, rounds."""
    logs = options.work / "logs"
    models = Models(options.work / "models", logs)
    tell("the checkpoint and gpt2-runtime's folder")
    checkpoint = models.make_checkpoint()
    folder = models.make_ours()
    failures: dict[str, str] = {}
    versions: dict[str, str] = {}
    programs: dict[Variant, tuple[Path, Path]] = {}
    for name in dict.fromkeys([OURS, *options.peers]):
        peer, place = peers[name], options.work / "environments" / name
        tell(f"the environment of {name}")
        try:
            python = prepare(peer, place, logs / f"{name}-install.log")
        except PeerError as error:
            if name == OURS:
                raise
            failures[name] = f"does not install: {error}"
            continue
        versions[name] = installed_version(peer.package, place)
        having = our_precisions(folder) if name == OURS else peer.weights
        for precision in (precision for precision in having if precision in options.precisions):
            variant = Variant(peer=name, precision=precision)
            tell(f"the model of {variant}")
            try:
                model = folder if name == OURS else models.convert(peer, precision, python)
            except PeerError as error:
                failures[str(variant)] = f"does not convert: {error}"
                continue
            programs[variant] = (python, model)
    run = Run(
        machine=Machine.this(),
        threads=options.threads,
        rounds=options.rounds,
        bytes_a_token=bytes_a_token(folder),
        versions=versions,
        megabytes={
            str(variant): our_megabytes(model, variant.precision) if variant.peer == OURS else megabytes(model)
            for variant, (_, model) in programs.items()
        },
        failures=failures,
    )
    vocabulary = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    bench = Bench(
        programs=programs, threads=options.threads, vocabulary=vocabulary, logs=logs, failures=failures, tell=tell
    )
    with closing(bench.measure(options.works, options.rounds)) as records:
        for record in records:
            run.records.append(record)
            if record.others and record.others > 0.05:
                tell(f"the waiting processes used {record.others:.2f} s of processor time meanwhile")
            if record.figure in FIGURES:
                unequal = "" if record.equal == record.total else f", {record.equal} of {record.total} ids"
                figure = FIGURES[record.figure]
                tell(f"  {record.peer} {record.precision} {figure.title}: {record.value:.1f} {figure.unit}{unequal}")
    return run


def tell(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
