"""The measuring itself: all runtimes are loaded, one computes at a time, A B C A B C, until the rounds are over."""

import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from peers import OURS, Variant
from processes import Adapter, PeerError
from records import Record, equal_ids
from works import WORKS, speed

SETTLE_SECONDS = 0.3  # OpenMP threads go on spinning for up to 0.2 s after a call, and would take the next one's cores
BASE = Variant(peer=OURS, precision="fp32")  # whose ids are the right ones


@dataclass
class Bench:
    """The runtimes of a run while they live.

    Attributes:
        programs: what to start for each variant: its Python and its model.
        failures: filled as runtimes fail; a failed one takes no further part.
        tell: a line of progress.
    """

    programs: Mapping[Variant, tuple[Path, Path]]
    threads: int
    vocabulary: int
    logs: Path
    failures: dict[str, str]
    tell: Callable[[str], None]
    living: dict[Variant, Adapter] = field(default_factory=dict)
    reference: dict[str, list[list[int]]] = field(default_factory=dict)

    def measure(self, works: list[str], rounds: int) -> Generator[Record, None, None]:
        """Every record of the run, as it is taken; PeerError where ours in float32 does not run, which all hangs on."""
        with ExitStack() as stack:
            memory = stack.enter_context(self.adapter(Path(sys.executable), "bandwidth", "bandwidth"))
            memory.ask("load", model="", precision="", threads=self.threads)
            for variant in self.programs:
                self.tell(f"loading {variant}")
                with self.failing(variant):
                    self.living[variant] = stack.enter_context(self.open(variant))
            self.warm_up(works)
            for number in range(rounds):
                for name in works:
                    read = memory.ask("read")
                    bandwidth = read["bytes"] / read["seconds"]
                    yield Record(peer="memory", precision="", figure="bandwidth", value=bandwidth / 1e9, round=number)
                    for variant in rotated(list(self.living), number):
                        self.tell(f"round {number + 1} of {rounds}: {name}, {variant}")
                        with self.failing(variant):
                            sleep(SETTLE_SECONDS)
                            take = self.start if name == "start" else self.work
                            yield from take(variant, name, number, bandwidth)
            for variant, adapter in self.living.items():
                yield Record(
                    peer=variant.peer,
                    precision=variant.precision,
                    figure="memory_highest",
                    value=adapter.peak_megabytes(),
                    round=rounds - 1,
                )

    def warm_up(self, works: list[str]) -> None:
        """Each work once, unmeasured, ours first: caches are filled, and the right ids are known."""
        for name in works:
            for variant in list(self.living):
                self.tell(f"warming up: {name}, {variant}")
                with self.failing(variant):
                    reply = self.generate(self.living[variant], name)
                    if variant == BASE:
                        self.reference[name] = reply["ids"]

    def work(self, variant: Variant, name: str, number: int, bandwidth: float) -> Iterator[Record]:
        """One work of one runtime that is loaded already."""
        waiting = [adapter for other, adapter in self.living.items() if other != variant]
        before = sum(adapter.cpu_seconds() for adapter in waiting)
        reply = self.generate(self.living[variant], name)
        others = sum(adapter.cpu_seconds() for adapter in waiting) - before
        first, decode = reply["first_token_seconds"], reply["decode_seconds"]
        equal, total = equal_ids(reply["ids"], self.reference[name])
        yield Record(
            peer=variant.peer,
            precision=variant.precision,
            figure=name,
            value=speed(name, WORKS[name], first, decode),
            round=number,
            first_token_seconds=first,
            decode_seconds=decode,
            equal=equal,
            total=total,
            bandwidth=bandwidth,
            others=others,
        )

    def start(self, variant: Variant, name: str, number: int, bandwidth: float) -> Iterator[Record]:
        """A fresh process: the seconds from its start to its first token and to its last, and the memory it takes."""
        begin = perf_counter()
        with self.open(variant) as adapter:
            reply = self.generate(adapter, name)
            whole = perf_counter() - begin
            peak = adapter.peak_megabytes()
        equal, total = equal_ids(reply["ids"], self.reference[name])
        for figure, value in (("start", whole - reply["decode_seconds"]), ("whole", whole), ("memory", peak)):
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

    def adapter(self, python: Path, name: str, log: str) -> Adapter:
        return Adapter(python, name, threads=self.threads, log=self.logs / f"{log}.log")

    def open(self, variant: Variant) -> Adapter:
        """A runtime's process with its model loaded."""
        python, model = self.programs[variant]
        with ExitStack() as opening:  # whatever ends the loading, Ctrl-C included, closes the process
            adapter = opening.enter_context(self.adapter(python, variant.peer, f"{variant.peer}-{variant.precision}"))
            adapter.ask("load", model=str(model), precision=variant.precision, threads=self.threads)
            opening.pop_all()
        return adapter

    def generate(self, adapter: Adapter, name: str) -> dict[str, Any]:
        work = WORKS[name]
        return adapter.ask("generate", prompts=work.prompts(self.vocabulary), new_tokens=work.new)

    @contextmanager
    def failing(self, variant: Variant) -> Iterator[None]:
        """A block in which a runtime may fail: it is noted and left out from there on. Not so ours in float32."""
        try:
            yield
        except PeerError as error:
            adapter = self.living.pop(variant, None)
            if adapter:
                adapter.close()
            if variant == BASE:
                raise
            self.failures[str(variant)] = str(error)
            self.tell(f"failed: {variant}: {error}")


def rotated(variants: list[Variant], number: int) -> list[Variant]:
    """Another one begins in every round, so that no place in the order is always the same one's.

    >>> rotated(["a", "b", "c"], 4)
    ['b', 'c', 'a']
    """
    start = number % len(variants)
    return variants[start:] + variants[:start]
