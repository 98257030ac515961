"""Every single measurement as one JSON object per line, so that any table can be made again."""

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
        equal, total: the new ids that agree with ours in the base precision, and their total.
        bandwidth: the memory's bytes per second in that round, just before this workload.
        others: processor seconds used meanwhile by the waiting adapters; should be zero.
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
    """A whole run: the machine, the measurements, and the failures.

    Attributes:
        versions: peer -> the version of its package.
        megabytes: "peer precision" -> size of its model on disk.
        bytes_a_token: the weight bytes that a decoding step reads, in the base precision.
        failures: peer or "peer precision", with or without a workload -> the reason in one line.
        device: a key of devices.DEVICES.
        cached_bytes: the bytes of keys and values that a step reads per row and token so far; 0 if not counted.
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
    """Writes a run; the first line is the run without its records."""
    head = asdict(run)
    records = head.pop("records")
    path.write_text("".join(json.dumps(line) + "\n" for line in [head, *records]), encoding="utf-8")


def read_run(path: Path) -> Run:
    """Reads a run written by `write_run`."""
    head, *records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    machine = Machine(**head.pop("machine"))
    return Run(machine=machine, records=[Record(**record) for record in records], **head)


def equal_ids(ids: Iterable[Iterable[int]], reference: Iterable[Iterable[int]]) -> tuple[int, int]:
    """The number of ids that equal the reference's at the same place, and the number in the reference.

    >>> equal_ids([[1, 2, 3]], [[1, 9, 3]])
    (2, 3)
    """
    expected = [list(row) for row in reference]
    same = sum(a == b for row, other in zip(ids, expected, strict=False) for a, b in zip(row, other, strict=False))
    return same, sum(map(len, expected))
