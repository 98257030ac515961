"""Records -> medians, and how ours stands to each peer: compared within a round, then the median of the rounds."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from peers import OURS, Variant
from records import Record, Run
from works import FIGURES


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A figure of a runtime over all rounds.

    Attributes:
        value: the median.
        ratio: how many times better ours of the same precision is; None where ours has none, and of ours itself.
        equal, total: the fewest ids of a round that were those of float32; None where the work tells no ids.
        differs: a float32 runtime whose ids are not ours: it computed something else, and its time does not count.
    """

    value: float
    ratio: float | None
    equal: int | None
    total: int | None
    differs: bool


def cells(run: Run) -> dict[tuple[Variant, str], Cell]:
    """Every figure of every runtime that has it."""
    values: dict[tuple[Variant, str], dict[int, Record]] = defaultdict(dict)
    for record in run.records:
        if record.figure in FIGURES:
            variant = Variant(peer=record.peer, precision=record.precision)
            values[variant, record.figure][record.round] = record
    return {key: _cell(*key, values) for key in values}


def _cell(variant: Variant, figure: str, values: dict[tuple[Variant, str], dict[int, Record]]) -> Cell:
    theirs = values[variant, figure]
    ours = values.get((Variant(peer=OURS, precision=variant.precision), figure), {})
    both = sorted(theirs.keys() & ours.keys()) if variant.peer != OURS else []
    ratios = [FIGURES[figure].ratio(ours[number].value, theirs[number].value) for number in both]
    least = min(theirs.values(), key=lambda record: record.equal or 0)
    return Cell(
        value=median(record.value for record in theirs.values()),
        ratio=median(ratios) if ratios else None,
        equal=least.equal,
        total=least.total,
        differs=variant.precision == "fp32" and least.equal != least.total,
    )


def best_peer(found: dict[tuple[Variant, str], Cell], figure: str, precision: str) -> tuple[Variant, Cell] | None:
    """The runtime beside ours that is best at a figure: by ratio where there is one, else by value."""
    rivals = [
        (variant, cell)
        for (variant, name), cell in found.items()
        if name == figure and variant.precision == precision and variant.peer != OURS and not cell.differs
    ]
    sign = 1 if FIGURES[figure].larger_is_better else -1
    return max(rivals, key=lambda rival: (-(rival[1].ratio or 0), sign * rival[1].value), default=None)


def roofline(run: Run, peer: str = OURS) -> float | None:
    """Float32 decoding as a part of what the memory allows: bytes read a second over what was read in that round."""
    parts = [
        record.value * run.bytes_a_token / record.bandwidth
        for record in run.records
        if record.figure == "decode" and record.peer == peer and record.precision == "fp32" and record.bandwidth
    ]
    return median(parts) if parts else None


def bandwidth(run: Run) -> tuple[float, float, float]:
    """Lowest, median and highest GB/s of the run's readings."""
    read = [record.value for record in run.records if record.figure == "bandwidth"]
    return (min(read), median(read), max(read)) if read else (0.0, 0.0, 0.0)
