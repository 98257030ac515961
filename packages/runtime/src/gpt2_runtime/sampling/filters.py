"""The candidates for the next token, and the filters that reduce them. N candidates, V vocabulary.

Temperature does not change the order, so top-k and min-p compare the logits, and only the tokens they keep are
weighed. Up to FEW candidates the arithmetic is float64. Above that the exponentials are float32, for speed: a
probability is off by less than a millionth of the total, and a candidate can be on the wrong side of the border of
top-p or typical-p only if it is that near, or as likely as the one at the border to five digits. The V tokens are
never sorted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

FEW = 2048  # up to this many candidates, sorting and float64 cost nothing
BLOCK = 256  # a draw finds its block of weights first, then its place within the block
EVERY = 32  # one value in this many is sorted, to estimate where a border lies
GROUPS = 512  # at least; fewer are narrower than a processor's registers
RANGES, RANGES_PER_NAT = 2048, 64  # of distances; only one range is sorted; 32 nats hold all but 1e-9 of the mass
PART = 8192  # tokens counted at a time, so that numpy's temporaries stay in the processor's caches

# Below these a float32 is denormal, and processors take many times as long.
LOWEST_SCORE = np.float32(-87)
TINY = 1e-38


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The tokens still in play, by ascending id. One of weight 0 is never drawn."""

    ids: npt.NDArray[np.int64]  # [N]
    logits: npt.NDArray[np.floating]  # [N], after the processors
    temperature: float
    known_weights: npt.NDArray[np.floating] | None = None  # [N], if an earlier filter computed them

    @cached_property
    def weights(self) -> npt.NDArray[np.floating]:
        """The probabilities [N], scaled so that the highest is 1."""
        if self.known_weights is not None:
            return self.known_weights
        return _weights(_scores(self.logits, self.temperature))

    @cached_property
    def block_sums(self) -> npt.NDArray[np.float64]:
        """The sums of each BLOCK weights, [N / BLOCK]."""
        return np.add.reduceat(self.weights, np.arange(0, len(self.ids), BLOCK)).astype(np.float64, copy=False)

    def kept(self, where: npt.NDArray[np.intp]) -> Candidates:
        """The candidates at these positions."""
        weights = self.weights[where] if "weights" in self.__dict__ else None
        return replace(self, ids=self.ids[where], logits=self.logits[where], known_weights=weights)

    def only(self, stays: npt.NDArray[np.bool_]) -> Candidates:
        """The candidates selected by the mask [N]."""
        if np.count_nonzero(stays) <= FEW:
            return self.kept(np.flatnonzero(stays))
        # Drawing among zeros is faster than gathering thousands.
        return replace(self, known_weights=self.weights * stays)


def apply_temperature(logits: npt.NDArray[np.floating], temperature: float) -> Candidates:
    """All tokens; their logits are divided by `temperature` when they are weighed."""
    return Candidates(ids=_all_ids(len(logits)), logits=logits, temperature=temperature)


def keep_top_k(left: Candidates, k: int) -> Candidates:
    """The k highest candidates, and any that tie with the lowest of them."""
    if len(left.ids) > 8 * k:
        left = left.kept(np.flatnonzero(left.logits >= _below_kth(left.logits, k)))
    if len(left.ids) <= k:
        return left
    return left.only(left.logits >= _kth(left.logits, k))


def keep_top_p(left: Candidates, p: float) -> Candidates:
    """The fewest highest candidates whose probabilities sum to at least p; at least one.

    If candidates tie at the border, the lower ids are dropped, as in transformers, which sums from the lowest up.
    """
    if p == 1:
        return left
    lowest, ties = _border(left, 1 - p)
    stays = left.weights >= lowest
    if ties:
        stays[np.flatnonzero(left.weights == lowest)[:ties]] = False
    return left.only(stays)


def keep_min_p(left: Candidates, p: float) -> Candidates:
    """The candidates that are at least p times as probable as the likeliest."""
    if p == 0:
        return left
    lowest = float(left.logits.max()) + left.temperature * math.log(p)
    return left.only(left.logits.astype(np.float64) >= lowest)


def keep_typical_p(left: Candidates, p: float) -> Candidates:
    """The fewest candidates of typical surprise whose probabilities sum to at least p, and any that tie with the last.

    A token's surprise is -log of its probability; the typical surprise is the entropy. Their distance is the distance
    of the token's score from the mean score, weighted by probability.
    """
    if p == 1:
        return left
    scores = _scores(left.logits, left.temperature)
    scores[left.weights == 0] = 0  # their weight is 0 anyway; -infinity would give NaN
    # Not np.dot, which wakes threads that the next step would then wait for.
    mean = (left.weights * scores).sum(dtype=np.float64) / left.block_sums.sum()
    distances = np.abs(scores - scores.dtype.type(mean))
    return left.only(distances <= _reach(distances, left.weights, p))


def probabilities(left: Candidates) -> npt.NDArray[np.float64]:
    """The softmax of the candidates' scores, [N]."""
    return np.asarray(left.weights.astype(np.float64) / left.block_sums.sum())


def draw(left: Candidates, rng: np.random.Generator) -> int:
    """Draws one candidate's id by its probability, from one uniform number."""
    cumulative = np.cumsum(left.block_sums)
    block, rest = _place(cumulative, rng.random() * cumulative[-1])
    start = block * BLOCK
    place, _ = _place(np.cumsum(left.weights[start : start + BLOCK], dtype=np.float64), rest)
    return int(left.ids[start + place])


def _place(cumulative: npt.NDArray[np.float64], number: float) -> tuple[int, float]:
    """Where `number` falls among the steps of `cumulative`, and how far into that step."""
    # Below the total, so that it never hits the end or a step of 0.
    number = min(number, np.nextafter(cumulative[-1], 0))
    place = int(np.searchsorted(cumulative, number, side="right"))
    return place, number - float(cumulative[place - 1] if place else 0)


def _scores(logits: npt.NDArray[np.floating], temperature: float) -> npt.NDArray[np.floating]:
    """(logits - highest) / temperature, [N]: at most 0."""
    with np.errstate(over="ignore"):  # at temperature 1e-300 all but the highest become -infinity, correctly
        if len(logits) <= FEW:
            exact = logits.astype(np.float64)
            return np.asarray((exact - exact.max()) / temperature)
        scores: npt.NDArray[np.floating] = (logits - logits.max()).astype(np.float32, copy=False)
        if temperature != 1:
            scores /= min(max(temperature, 1e-30), 1e30)  # float32's range; beyond it the weights are 0 or 1 anyway
    return scores


def _weights(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """exp(scores), [N], in place."""
    if scores.dtype == np.float64 or scores.min() > LOWEST_SCORE:
        return np.asarray(np.exp(scores, out=scores))
    np.exp(np.maximum(scores, LOWEST_SCORE, out=scores), out=scores)
    return np.asarray(np.subtract(scores, np.exp(LOWEST_SCORE), out=scores))


def _below_kth(logits: npt.NDArray[np.floating], k: int) -> float:
    """A logit that at least k candidates reach, and few more than k: the k-th highest of the maxima of 4 k groups."""
    rows = max(1, len(logits) // max(4 * k, GROUPS))
    columns = len(logits) // rows
    highest = logits[: rows * columns].reshape(rows, columns).max(axis=0)
    return float(np.partition(highest, -k)[-k])


def _kth(logits: npt.NDArray[np.floating], k: int) -> float:
    """The k-th highest logit."""
    if len(logits) > FEW:
        # A sample of the logits estimates where it is, within four standard deviations; the counts then check that.
        some = np.sort(logits[::EVERY])
        share = k / len(logits)
        at, margin = int(len(some) * (1 - share)), 4 + int(4 * math.sqrt(len(some) * share * (1 - share)))
        low, high = some[max(at - margin, 0)], some[min(at + margin, len(some) - 1)]
        rank = k - np.count_nonzero(logits > high)
        near = logits[np.flatnonzero((logits >= low) & (logits <= high))]
        if 1 <= rank <= len(near):
            return float(np.partition(near, -rank)[-rank])
    return float(np.partition(logits, -k)[-k])


def _border(left: Candidates, share: float) -> tuple[np.floating, int]:
    """The lowest weight kept when the lowest are dropped, up to this share of all; and how many of its ties go."""
    spare = share * float(left.block_sums.sum())
    near, below = _near_border(left, spare)
    near = np.sort(near)
    gone = int(np.searchsorted(below + np.cumsum(near, dtype=np.float64), spare, side="right"))
    gone = min(gone, len(near) - 1)
    return near[gone], gone - int(np.searchsorted(near, near[gone]))


def _near_border(left: Candidates, spare: float) -> tuple[npt.NDArray[np.floating], float]:
    """All weights of a range in which the sum of the lowest first exceeds `spare`, and the sum of all below it."""
    weights = left.weights
    if len(weights) <= FEW:
        return weights, 0.0
    # A sample of the weights estimates where that is, within four standard deviations; the sums then check that.
    some = np.sort(weights[::EVERY]).astype(np.float64)
    at = int(np.searchsorted(np.cumsum(some), spare / EVERY))
    deviation = math.sqrt(np.square(some[:at]).sum()) / max(some[min(at, len(some) - 1)], TINY)
    margin = 4 + int(4 * min(deviation, len(some)))
    low = np.float32(max(some[max(at - margin, 0)], TINY))
    high = np.float32(some[at + margin] if at + margin < len(some) else 1)
    reach = weights >= low
    count = np.count_nonzero(reach)
    if count <= FEW:
        near = weights[np.flatnonzero(reach)]
        below = float(left.block_sums.sum() - near.sum(dtype=np.float64))
    else:
        near = weights[np.flatnonzero(reach & (weights <= high))]
        below = float(np.minimum(weights, low).sum()) - float(low) * count
    if below <= spare < below + near.sum(dtype=np.float64):
        return near, below
    return weights, 0.0


def _reach(distances: npt.NDArray[np.floating], weights: npt.NDArray[np.floating], share: float) -> float:
    """The smallest distance within which the weights sum to at least this share of the total."""
    before, total = 0.0, float(weights.sum(dtype=np.float64))
    if len(distances) > FEW:
        ranges = np.minimum(distances * RANGES_PER_NAT, RANGES - 1).astype(np.int16)
        sums = np.zeros(RANGES)
        for start in range(0, len(ranges), PART):
            part = slice(start, start + PART)
            sums += np.bincount(ranges[part], weights[part], minlength=RANGES)
        np.cumsum(sums, out=sums)
        total = float(sums[-1])
        at = int(np.searchsorted(sums, share * total))
        before = float(sums[at - 1]) if at else 0.0
        here = np.flatnonzero(ranges == at)
        distances, weights = distances[here], weights[here]
    order = np.argsort(distances)
    at = int(np.searchsorted(np.cumsum(weights[order], dtype=np.float64), share * total - before))
    return float(distances[order[min(at, len(order) - 1)]])


@lru_cache(maxsize=1)
def _all_ids(count: int) -> npt.NDArray[np.int64]:
    ids = np.arange(count)
    ids.setflags(write=False)
    return ids
