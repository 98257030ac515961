"""Measures gpt2-runtime against its peers and writes the table, the chart and the raw records.

Runs each workload on every runtime in turn, round after round, each runtime in its own process and environment, on the
same random GPT-2 124M weights and the same token ids. Environments and converted models are made on the first run and
kept in --work (about 8 GB; llama.cpp is compiled, which takes minutes). Keep the machine quiet meanwhile: one process
computes at a time, and ratios are taken within a round.

With --device cuda the runtimes, workloads, precisions and the results folder are those of a GPU.
"""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from chart import chart
from devices import DEVICES
from environments import installed_version, prepare
from gpu import NoGpuError
from machine import Machine
from models import Models, bytes_a_token, cached_bytes, manifest_of, megabytes, our_megabytes, our_precisions
from peers import HERE, OURS, ROOT, Peer, Variant, read_peers
from processes import PeerError, ended_by_signals
from records import Run, read_run, write_run
from rounds import Bench, Program
from table import table
from works import FIGURES


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parse(arguments)
    peers = read_peers(options.device.peers)
    if options.show:
        if not (options.out / "records.jsonl").exists():
            report(f"{options.out} has no records.jsonl to show; run without --show first, or name its folder by --out")
            return 1
        run = read_run(options.out / "records.jsonl")
    else:
        try:
            with ended_by_signals():
                run = measure(options, peers)
            options.out.mkdir(parents=True, exist_ok=True)
            write_run(run, options.out / "records.jsonl")
        except NoGpuError as error:
            report(f"--device cuda finds no NVIDIA GPU here ({error}); leave it out to measure on the CPU")
            return 1
        except KeyboardInterrupt:
            report("interrupted; nothing was written")
            return 130
        except PeerError as error:
            report(f"gpt2-runtime itself failed, and every ratio is against it: {error}; see {options.work / 'logs'}")
            return 1
    (options.out / "table.md").write_text(table(run, peers), encoding="utf-8")
    (options.out / "chart.svg").write_text(chart(run, peers), encoding="utf-8")
    print(table(run, peers), end="")
    return 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """
    >>> parse(["--quick"]).rounds, parse([]).rounds
    (1, 5)
    >>> parse(["--device", "cuda"]).precisions
    ['fp16']
    """
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--device", choices=list(DEVICES), default="cpu", help="where to run (default: cpu)")
    device = DEVICES[first.parse_known_args(arguments)[0].device]
    names, works = list(read_peers(device.peers)), list(device.works)
    parser = argparse.ArgumentParser(
        prog="python benchmarks/run.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[first],
    )
    parser.add_argument("--rounds", type=int, help="measurements of each workload per runtime (default: 5)")
    parser.add_argument(
        "--peers",
        type=_names(names),
        default=names,
        metavar="NAME,...",
        help=f"any of {', '.join(names)}; ours always",
    )
    parser.add_argument(
        "--precisions",
        type=_names(list(device.precisions)),
        default=list(device.precisions),
        metavar="NAME,...",
        help=f"any of {', '.join(device.precisions)}",
    )
    parser.add_argument("--works", type=_names(works), metavar="NAME,...", help=f"any of {', '.join(works)}")
    parser.add_argument("--threads", type=int, default=2, help="threads per runtime (default: 2)")
    parser.add_argument(
        "--quick", action="store_true", help=f"one round of {', '.join(device.quick)}, written to benchmarks/trial"
    )
    parser.add_argument("--show", action="store_true", help="measure nothing; make table and chart from the records")
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / ".tox" / "bench-peers",
        help="folder for environments and models (default: .tox/bench-peers)",
    )
    parser.add_argument("--out", type=Path, help=f"where the results go (default: {device.results.relative_to(ROOT)})")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.device = device
    options.works = options.works or (list(device.quick) if options.quick else works)
    options.out = options.out or (HERE / "trial" if options.quick else device.results)
    options.work = options.work.resolve()
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    return options


def _names(known: list[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return [name for name in known if name in chosen]

    return names


def measure(options: argparse.Namespace, peers: dict[str, Peer]) -> Run:
    """Makes environments and models, and runs the rounds."""
    device, logs = options.device, options.work / "logs"
    machine = Machine.this(device.find())
    models = Models(options.work / "models", logs, device)
    report("the checkpoint and gpt2-runtime's folder")
    checkpoint = models.make_checkpoint()
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    folder = models.make_ours()
    failures: dict[str, str] = {}
    versions: dict[str, str] = {}
    programs: dict[Variant, Program] = {}
    for name in dict.fromkeys([OURS, *options.peers]):
        peer = peers[name]
        kept = f"{device.prefix}{peer.environment}"
        place = options.work / "environments" / kept
        report(f"the environment of {name}")
        try:
            python = prepare(peer, place, logs / f"{kept}-install.log")
        except PeerError as error:
            if name == OURS:
                raise
            failures[name] = f"does not install: {error}"
            continue
        versions[name] = installed_version(peer.package, place)
        ours = peer.adapter == OURS
        having = our_precisions(folder, device.precisions) if ours else peer.weights
        for precision in (precision for precision in having if precision in options.precisions):
            variant = Variant(peer=name, precision=precision)
            report(f"the model of {variant}")
            try:
                model = folder if ours else models.convert(peer, precision, python)
            except PeerError as error:
                failures[str(variant)] = f"does not convert: {error}"
                continue
            programs[variant] = Program(python=python, adapter=peer.adapter, model=model, options=peer.options)
    run = Run(
        machine=machine,
        threads=options.threads,
        rounds=options.rounds,
        bytes_a_token=bytes_a_token(folder / manifest_of(folder)["weights"][device.base.precision]),
        versions=versions,
        megabytes={
            str(variant): our_megabytes(folder, variant.precision) if each.adapter == OURS else megabytes(each.model)
            for variant, each in programs.items()
        },
        failures=failures,
        device=device.name,
        cached_bytes=cached_bytes(config, device.cached),
    )
    bench = Bench(
        device=device,
        programs=programs,
        threads=options.threads,
        vocabulary=config["vocab_size"],
        logs=logs,
        failures=failures,
        report=report,
    )
    with closing(bench.measure(options.works, options.rounds)) as records:
        for record in records:
            run.records.append(record)
            if record.others and record.others > 0.05:
                report(f"the waiting processes used {record.others:.2f} s of processor time meanwhile")
            if record.figure in FIGURES:
                unequal = "" if record.equal == record.total else f", {record.equal} of {record.total} ids"
                figure = FIGURES[record.figure]
                report(f"  {record.peer} {record.precision} {figure.title}: {record.value:.1f} {figure.unit}{unequal}")
    return run


def report(line: str) -> None:
    """Prints a line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
