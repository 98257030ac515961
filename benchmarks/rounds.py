"""The measuring: all runtimes are loaded and compute in turn, A B C A B C, for a number of rounds."""

import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from devices import Device
from peers import Variant
from processes import Adapter, PeerError, RefusedError
from records import Record, equal_ids
from works import FIGURES, speed

SETTLE_SECONDS = 0.3  # OpenMP threads spin for up to 0.2 s after a call, and would take the next one's cores


@dataclass(frozen=True, kw_only=True)
class Program:
    """The program of a variant: its adapter, Python, model and options."""

    python: Path
    adapter: str
    model: Path
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass
class Bench:
    """The running runtimes of a run.

    Attributes:
        programs: what to start for each variant.
        failures: filled as runtimes fail; a failed one is left out from then on.
        report: prints a line of progress.
        refused: workloads that a runtime could not do and skips.
    """

    device: Device
    programs: Mapping[Variant, Program]
    threads: int
    vocabulary: int
    logs: Path
    failures: dict[str, str]
    report: Callable[[str], None]
    living: dict[Variant, Adapter] = field(default_factory=dict)
    reference: dict[str, list[list[int]]] = field(default_factory=dict)
    refused: set[tuple[Variant, str]] = field(default_factory=set)

    def measure(self, works: list[str], rounds: int) -> Generator[Record, None, None]:
        """Yields every record as it is taken; PeerError if the base, which everything depends on, does not run."""
        with ExitStack() as stack:
            memory = stack.enter_context(self.memory())
            with self.without_roofline():
                memory.ask("load", model="", precision="", threads=self.threads)
            for variant in self.programs:
                self.report(f"loading {variant}")
                with self.failing(variant):
                    self.living[variant] = stack.enter_context(self.open(variant))
            self.warm_up(works)
            for number in range(rounds):
                for name in works:
                    bandwidth = None
                    with self.without_roofline():
                        read = memory.ask("read")
                        bandwidth = read["bytes"] / read["seconds"]
                        value = bandwidth / 1e9
                        yield Record(peer="memory", precision="", figure="bandwidth", value=value, round=number)
                    for variant in rotated(self.able(name), number):
                        self.report(f"round {number + 1} of {rounds}: {name}, {variant}")
                        with self.failing(variant, name):
                            sleep(SETTLE_SECONDS)
                            take = self.start if name == "start" else self.work
                            yield from take(variant, name, number, bandwidth)
            for variant, adapter in self.living.items() if self.device.resident else ():
                yield Record(
                    peer=variant.peer,
                    precision=variant.precision,
                    figure="memory_highest",
                    value=adapter.peak_megabytes(),
                    round=rounds - 1,
                )

    def warm_up(self, works: list[str]) -> None:
        """Runs each workload once, unmeasured, ours first: fills caches and records the reference ids."""
        for name in works:
            for variant in list(self.living):
                self.report(f"warming up: {name}, {variant}")
                with self.failing(variant, name), self.turn(variant):
                    reply = self.generate(self.living[variant], name)
                    if variant == self.device.base:
                        self.reference[name] = reply["ids"]

    def work(self, variant: Variant, name: str, number: int, bandwidth: float | None) -> Iterator[Record]:
        """Measures one workload of one loaded runtime."""
        waiting = [adapter for other, adapter in self.living.items() if other != variant]
        with self.turn(variant):
            if self.device.crowded:  # allocates buffers again; brings up a GPU's clock
                self.generate(self.living[variant], name)
            before = sum(adapter.cpu_seconds() for adapter in waiting)
            reply = self.generate(self.living[variant], name)
            others = sum(adapter.cpu_seconds() for adapter in waiting) - before
        first, decode = reply["first_token_seconds"], reply["decode_seconds"]
        equal, total = self.equal(name, reply["ids"])
        yield Record(
            peer=variant.peer,
            precision=variant.precision,
            figure=name,
            value=speed(self.device.works[name], first, decode),
            round=number,
            first_token_seconds=first,
            decode_seconds=decode,
            equal=equal,
            total=total,
            bandwidth=bandwidth,
            others=others,
        )

    def start(self, variant: Variant, name: str, number: int, bandwidth: float | None) -> Iterator[Record]:
        """Starts a fresh process: the seconds to its first token and to its last, and its memory."""
        begin = perf_counter()
        with self.open(variant) as adapter:
            reply = self.generate(adapter, name)
            whole = perf_counter() - begin
            peak = adapter.peak_megabytes()
        equal, total = self.equal(name, reply["ids"])
        figures = {"start": whole - reply["decode_seconds"], "whole": whole}
        for figure, value in (figures | ({"memory": peak} if self.device.resident else {})).items():
            yield Record(
                peer=variant.peer,
                precision=variant.precision,
                figure=figure,
                value=value,
                round=number,
                equal=equal,
                total=total,
                bandwidth=bandwidth,
            )

    def memory(self) -> Adapter:
        """The adapter that measures the memory's bandwidth."""
        same = [each.python for variant, each in self.programs.items() if variant.peer == self.device.bandwidth_peer]
        return self.adapter((same or [Path(sys.executable)])[0], self.device.bandwidth, self.device.bandwidth)

    def adapter(self, python: Path, name: str, log: str) -> Adapter:
        return Adapter(python, name, threads=self.threads, log=self.logs / f"{log}.log")

    def open(self, variant: Variant) -> Adapter:
        """Starts a runtime's process and loads its model."""
        program, log = self.programs[variant], f"{variant.peer}-{variant.precision}"
        fields = {"precision": variant.precision, "threads": self.threads, **self.device.load, **program.options}
        with ExitStack() as opening:  # anything that ends the loading, even Ctrl-C, closes the process
            adapter = opening.enter_context(self.adapter(program.python, program.adapter, log))
            adapter.ask("load", model=str(program.model), **fields)
            opening.pop_all()
        return adapter

    def generate(self, adapter: Adapter, name: str) -> dict[str, Any]:
        work = self.device.works[name]
        return adapter.ask("generate", prompts=work.prompts(self.vocabulary), new_tokens=work.new)

    def able(self, name: str) -> list[Variant]:
        """The variants that take part in a workload."""
        return [variant for variant in self.living if (variant, name) not in self.refused]

    def equal(self, name: str, ids: list[list[int]]) -> tuple[int | None, int | None]:
        """The number of ids that agree with the base, and the total; None if the base could not do the workload."""
        reference = self.reference.get(name)
        return (None, None) if reference is None else equal_ids(ids, reference)

    @contextmanager
    def without_roofline(self) -> Iterator[None]:
        """A block in which the memory's adapter may fail: the first failure is recorded, and the run continues."""
        try:
            yield
        except PeerError as error:
            if "bandwidth" not in self.failures:
                self.report(f"failed: bandwidth: {error}")
            self.failures.setdefault("bandwidth", str(error))

    @contextmanager
    def turn(self, variant: Variant) -> Iterator[None]:
        """A block in which a runtime computes; if memory is short, it releases its memory at the end.

        Except for one that does not answer, or that Ctrl-C interrupted: it gets no further request.
        """
        refused = None
        try:
            yield
        except RefusedError as error:
            refused = error
        if self.device.crowded:
            self.living[variant].ask("release")
        if refused:
            raise refused

    @contextmanager
    def failing(self, variant: Variant, work: str | None = None) -> Iterator[None]:
        """A block in which a runtime may fail: the failure is recorded and the runtime left out. The base may not fail.

        If memory is short, only the refused workload is left out.
        """
        try:
            yield
        except PeerError as error:
            if work and self.device.crowded and isinstance(error, RefusedError):
                self.refused.add((variant, work))
                self.failures[f"{variant}, {FIGURES[work].title}"] = str(error)
                self.report(f"failed: {variant}, {work}: {error}")
                return
            adapter = self.living.pop(variant, None)
            if adapter:
                adapter.close()
            if variant == self.device.base:
                raise
            self.failures[str(variant)] = str(error)
            self.report(f"failed: {variant}: {error}")


def rotated(variants: list[Variant], number: int) -> list[Variant]:
    """Rotates the order by round, so that none always has the same place.

    >>> rotated(["a", "b", "c"], 4)
    ['b', 'c', 'a']
    """
    start = number % max(1, len(variants))
    return variants[start:] + variants[:start]
