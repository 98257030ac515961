"""Every single measurement, as it was taken: one JSON object a line, so that any table can be made again."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from machine import Machine


@dataclass(frozen=True, kw_only=True)
class Record:
    """One figure of one runtime in one round.

    Attributes:
        figure: a key of works.FIGURES.
        value: in the figure's unit.
        round: counted from 0.
        first_token_seconds, decode_seconds: what the value was computed from.
        equal, total: how many of the new ids are those of ours in the base precision, and how many there are.
        bandwidth: bytes a second that the memory gave in that round, just before this work.
        others: processor seconds that the waiting adapters used meanwhile; it should be none.
    """

    peer: str
    precision: str
    figure: str
    value: float
    round: int
    first_token_seconds: float | None = None
    decode_seconds: float | None = None
    equal: int | None = None
    total: int | None = None
    bandwidth: float | None = None
    others: float | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A whole run: where it was, what it measured, and what could not be.

    Attributes:
        versions: peer -> the version of its package.
        megabytes: "peer precision" -> size of its model on the disk.
        bytes_a_token: what a step of decoding reads of the weights, in the base precision.
        failures: peer, or "peer precision", with a work or without -> the reason in one line.
        device: a key of devices.DEVICES.
        cached_bytes: what a step reads of a row's keys and values for each token so far; 0 where it is not counted.
    """

    machine: Machine
    threads: int
    rounds: int
    bytes_a_token: int
    versions: dict[str, str]
    megabytes: dict[str, float]
    failures: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    cached_bytes: int = 0
    records: list[Record] = field(default_factory=list)


def write_run(run: Run, path: Path) -> None:
    """The first line is the run without its records."""
    head = asdict(run)
    records = head.pop("records")
    path.write_text("".join(json.dumps(line) + "\n" for line in [head, *records]), encoding="utf-8")


def read_run(path: Path) -> Run:
    """What `write_run` wrote."""
    head, *records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    machine = Machine(**head.pop("machine"))
    return Run(machine=machine, records=[Record(**record) for record in records], **head)


def equal_ids(ids: Iterable[Iterable[int]], reference: Iterable[Iterable[int]]) -> tuple[int, int]:
    """How many ids are the reference's in their place, and how many the reference has.

    >>> equal_ids([[1, 2, 3]], [[1, 9, 3]])
    (2, 3)
    """
    expected = [list(row) for row in reference]
    same = sum(a == b for row, other in zip(ids, expected, strict=False) for a, b in zip(row, other, strict=False))
    return same, sum(map(len, expected))
