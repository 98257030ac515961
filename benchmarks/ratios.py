"""Records -> medians, and our ratio to each peer: taken within a round, then the median over rounds."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from statistics import median

from devices import DEVICES
from peers import OURS, Variant
from records import Record, Run
from works import FIGURES, Work


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A figure of a runtime over all rounds.

    Attributes:
        value: the median.
        ratio: how many times better ours is in the same precision; None if ours has no value, and for ours itself.
        equal, total: the fewest ids of a round that agreed with the base; None if the workload returns no ids.
        differs: a float32 runtime whose ids differ from ours: it did another job, so its time does not count.
    """

    value: float
    ratio: float | None
    equal: int | None
    total: int | None
    differs: bool


Values = dict[tuple[Variant, str], dict[int, Record]]
"""(runtime, figure) -> round -> record."""


def cells(run: Run) -> dict[tuple[Variant, str], Cell]:
    """All figures of all runtimes."""
    values = by_round(run)
    return {key: _cell(*key, values) for key in values}


def by_round(run: Run) -> Values:
    """The records of runtimes, sorted."""
    values: Values = defaultdict(dict)
    for record in run.records:
        if record.figure in FIGURES:
            variant = Variant(peer=record.peer, precision=record.precision)
            values[variant, record.figure][record.round] = record
    return values


def ratio(values: Values, mine: Variant, theirs: Variant, figure: str) -> float | None:
    """How many times better one runtime is than another: the median over the rounds both have."""
    left, right = values.get((mine, figure), {}), values.get((theirs, figure), {})
    both = sorted(left.keys() & right.keys())
    ratios = [FIGURES[figure].ratio(left[number].value, right[number].value) for number in both]
    return median(ratios) if ratios else None


def _cell(variant: Variant, figure: str, values: Values) -> Cell:
    theirs, ours = values[variant, figure], Variant(peer=OURS, precision=variant.precision)
    least = min(theirs.values(), key=lambda record: record.equal or 0)
    return Cell(
        value=median(record.value for record in theirs.values()),
        ratio=ratio(values, ours, variant, figure) if variant.peer != OURS else None,
        equal=least.equal,
        total=least.total,
        differs=variant.precision == "fp32" and least.equal != least.total,
    )


def best_peer(
    results: dict[tuple[Variant, str], Cell], figure: str, precision: str, own: Collection[str] = (OURS,)
) -> tuple[Variant, Cell] | None:
    """The best runtime other than ours at a figure: by ratio if there is one, else by value."""
    rivals = [
        (variant, cell)
        for (variant, name), cell in results.items()
        if name == figure and variant.precision == precision and variant.peer not in own and not cell.differs
    ]
    sign = 1 if FIGURES[figure].larger_is_better else -1
    return max(rivals, key=lambda rival: (-(rival[1].ratio or 0), sign * rival[1].value), default=None)


def step_bytes(run: Run, work: Work) -> float:
    """The bytes a workload's step reads: the weights, and every row's keys and values if the run counts them."""
    return run.bytes_a_token + run.cached_bytes * work.context * work.rows


def roofline(run: Run, figure: str = "decode", peer: str = OURS) -> float | None:
    """Decoding in the base precision as a share of the memory bandwidth: bytes per second over the highest measured.

    None if that was not measured, or if a step read faster than memory ever did: then processor caches held the data,
    and memory was no limit.
    """
    device = DEVICES[run.device]
    work = device.works[figure]
    read = [
        record.value / work.rows * step_bytes(run, work)
        for record in run.records
        if (record.figure, record.peer, record.precision) == (figure, peer, device.base.precision) and record.bandwidth
    ]
    highest = max(bandwidth(run)[2] * 1e9, *(record.bandwidth or 0.0 for record in run.records), 0.0)
    return median(read) / highest if read and median(read) <= highest else None


def bandwidth(run: Run) -> tuple[float, float, float]:
    """Lowest, median and highest GB/s of the run's readings."""
    read = [record.value for record in run.records if record.figure == "bandwidth"]
    return (min(read), median(read), max(read)) if read else (0.0, 0.0, 0.0)
