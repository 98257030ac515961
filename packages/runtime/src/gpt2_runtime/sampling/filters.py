"""The tokens that may come next, and the filters that leave fewer of them. N candidates, V vocabulary.

Temperature reorders nothing, so top-k and min-p compare the logits themselves, and only what they leave is weighed. Up
to FEW candidates the arithmetic is float64. Above, the exponentials are float32, for the sake of time: a probability is
off by less than a millionth of all, and a candidate can be on the wrong side of the border of top-p or typical-p only
where it is that near, or as likely as the one at the border to five digits. Nothing sorts the V tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

FEW = 2048  # candidates that cost nothing to sort, or in float64
BLOCK = 256  # a draw finds its block of weights first, then its place there
EVERY = 32  # of so many one is sorted, to tell where a border lies among all
GROUPS = 512  # at least; fewer are narrower than a processor's registers
RANGES, RANGES_PER_NAT = 2048, 64  # of distances, only one of which is sorted; 32 nats hold all but 1e-9 of the mass
PART = 8192  # of the tokens are counted at a time, so that what numpy makes of them stays in the processor's caches

# Below these a float32 is denormal, for which processors take many times as long.
LOWEST_SCORE = np.float32(-87)
TINY = 1e-38


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The tokens still in play, by ascending id. One of weight 0 cannot come."""

    ids: npt.NDArray[np.int64]  # [N]
    logits: npt.NDArray[np.floating]  # [N], after the controls
    temperature: float
    known_weights: npt.NDArray[np.floating] | None = None  # [N], where an earlier filter needed them

    @cached_property
    def weights(self) -> npt.NDArray[np.floating]:
        """The probabilities [N] up to a common factor, the highest being 1."""
        if self.known_weights is not None:
            return self.known_weights
        return _weights(_scores(self.logits, self.temperature))

    @cached_property
    def block_sums(self) -> npt.NDArray[np.float64]:
        """The sums of each BLOCK weights, [N / BLOCK]."""
        return np.add.reduceat(self.weights, np.arange(0, len(self.ids), BLOCK)).astype(np.float64, copy=False)

    def kept(self, where: npt.NDArray[np.intp]) -> Candidates:
        """The candidates at these places."""
        weights = self.weights[where] if "weights" in self.__dict__ else None
        return replace(self, ids=self.ids[where], logits=self.logits[where], known_weights=weights)

    def only(self, stays: npt.NDArray[np.bool_]) -> Candidates:
        """The candidates of which [N] says so."""
        if np.count_nonzero(stays) <= FEW:
            return self.kept(np.flatnonzero(stays))
        # To draw among zeros is faster than to gather thousands.
        return replace(self, known_weights=self.weights * stays)


def apply_temperature(logits: npt.NDArray[np.floating], temperature: float) -> Candidates:
    """All tokens, their logits to be divided by `temperature` where they are weighed."""
    return Candidates(ids=_all_ids(len(logits)), logits=logits, temperature=temperature)


def keep_top_k(left: Candidates, k: int) -> Candidates:
    """The k highest candidates, and those that tie with the lowest of them."""
    if len(left.ids) > 8 * k:
        left = left.kept(np.flatnonzero(left.logits >= _below_kth(left.logits, k)))
    if len(left.ids) <= k:
        return left
    return left.only(left.logits >= _kth(left.logits, k))


def keep_top_p(left: Candidates, p: float) -> Candidates:
    """The fewest highest candidates whose probabilities sum to at least p; one at least.

    Of those that tie at the border the lower ids go, as in transformers: its sums run from the lowest candidate up.
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
    """The fewest candidates of typical surprise whose probabilities sum to at least p, and what ties with the last.

    A token's surprise is -log of its probability, and the typical one the entropy: their distance is that of its score
    to the mean of all scores, weighed by probability.
    """
    if p == 1:
        return left
    scores = _scores(left.logits, left.temperature)
    scores[left.weights == 0] = 0  # wherever these are, they weigh nothing; -infinity would give NaN
    # Not np.dot, which wakes threads that the next step would have to wait for.
    mean = (left.weights * scores).sum(dtype=np.float64) / left.block_sums.sum()
    distances = np.abs(scores - scores.dtype.type(mean))
    return left.only(distances <= _reach(distances, left.weights, p))


def probabilities(left: Candidates) -> npt.NDArray[np.float64]:
    """The softmax of the candidates' scores, [N]."""
    return np.asarray(left.weights.astype(np.float64) / left.block_sums.sum())


def draw(left: Candidates, rng: np.random.Generator) -> int:
    """One candidate's id, by its probability, from one uniform number."""
    cumulative = np.cumsum(left.block_sums)
    block, rest = _place(cumulative, rng.random() * cumulative[-1])
    start = block * BLOCK
    place, _ = _place(np.cumsum(left.weights[start : start + BLOCK], dtype=np.float64), rest)
    return int(left.ids[start + place])


def _place(cumulative: npt.NDArray[np.float64], number: float) -> tuple[int, float]:
    """Where `number` falls among the steps of `cumulative`, and how far into that step."""
    # Below the total, so that neither the end nor a step of 0 can be hit.
    number = min(number, np.nextafter(cumulative[-1], 0))
    place = int(np.searchsorted(cumulative, number, side="right"))
    return place, number - float(cumulative[place - 1] if place else 0)


def _scores(logits: npt.NDArray[np.floating], temperature: float) -> npt.NDArray[np.floating]:
    """(logits - highest) / temperature, [N]: at most 0."""
    with np.errstate(over="ignore"):  # at temperature 1e-300 all but the highest become -infinity, which is right
        if len(logits) <= FEW:
            exact = logits.astype(np.float64)
            return np.asarray((exact - exact.max()) / temperature)
        scores: npt.NDArray[np.floating] = (logits - logits.max()).astype(np.float32, copy=False)
        if temperature != 1:
            scores /= min(max(temperature, 1e-30), 1e30)  # all that float32 has; the weights are 0 or 1 there already
    return scores


def _weights(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """exp(scores), [N], in the place of the scores."""
    if scores.dtype == np.float64 or scores.min() > LOWEST_SCORE:
        return np.asarray(np.exp(scores, out=scores))
    np.exp(np.maximum(scores, LOWEST_SCORE, out=scores), out=scores)
    return np.asarray(np.subtract(scores, np.exp(LOWEST_SCORE), out=scores))


def _below_kth(logits: npt.NDArray[np.floating], k: int) -> float:
    """A logit that at least k reach and few more than k: of 4 k groups, the k-th highest of their highest."""
    rows = max(1, len(logits) // max(4 * k, GROUPS))
    columns = len(logits) // rows
    highest = logits[: rows * columns].reshape(rows, columns).max(axis=0)
    return float(np.partition(highest, -k)[-k])


def _kth(logits: npt.NDArray[np.floating], k: int) -> float:
    """The k-th highest logit."""
    if len(logits) > FEW:
        # One logit in a few tells about where it is, four standard deviations to each side; the counts tell if it is.
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
    """The lowest weight that stays when the lowest go, to at most this share of all; and how many of its ties go."""
    spare = share * float(left.block_sums.sum())
    near, below = _near_border(left, spare)
    near = np.sort(near)
    gone = int(np.searchsorted(below + np.cumsum(near, dtype=np.float64), spare, side="right"))
    gone = min(gone, len(near) - 1)
    return near[gone], gone - int(np.searchsorted(near, near[gone]))


def _near_border(left: Candidates, spare: float) -> tuple[npt.NDArray[np.floating], float]:
    """All weights of a range in which the lowest ones come to exceed `spare`, and the sum of all below that range."""
    weights = left.weights
    if len(weights) <= FEW:
        return weights, 0.0
    # One weight in a few tells where that is, four standard deviations to each side; the sums tell if it is so.
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
    """The lowest distance within which the weights are at least this share of all."""
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
