"""Logits [V] -> one token id: temperature, then top-k, then top-p, then a draw. N candidates, V vocabulary.

The order and the meaning of each setting are those of transformers' `generate`; the arithmetic is float64, so that
only a candidate within rounding of a border can fall on its other side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpt2_runtime.errors import LogitsError, SettingError

ALL = "leave it out to keep all tokens"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen. The default is GPT-2's own distribution, as it was trained.

    Args:
        temperature: divides the logits; below 1 sharpens, above 1 flattens, and 0 always takes the likeliest token.
        top_k: keep the k likeliest tokens, and all that tie with the last of them; None keeps all.
        top_p: keep the fewest likeliest tokens whose probabilities reach this sum; None keeps all.

    Raises:
        SettingError: a value out of range.

    >>> SamplingConfig(temperature=0.8, top_k=40)
    SamplingConfig(temperature=0.8, top_k=40, top_p=None)
    >>> SamplingConfig(top_p=1.5)
    Traceback (most recent call last):
    ...
    gpt2_runtime.errors.SettingError: top_p is 1.5, must be above 0 and at most 1; leave it out to keep all tokens
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.temperature) or not 0 <= self.temperature < math.inf:
            raise SettingError(f"temperature is {self.temperature!r}, must be a number of at least 0; 0 is greedy")
        if self.top_k is not None and (not _is_integer(self.top_k) or self.top_k < 1):
            raise SettingError(
                f"top_k is {self.top_k!r}, must be an integer of at least 1; leave it out to keep all tokens"
            )
        if self.top_p is not None and (not _is_number(self.top_p) or not 0 < self.top_p <= 1):
            raise SettingError(
                f"top_p is {self.top_p!r}, must be above 0 and at most 1; leave it out to keep all tokens"
            )


AS_TRAINED = SamplingConfig()
GREEDY = SamplingConfig(temperature=0.0)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The tokens still in play, by ascending id, and their scores: logits up to a common constant."""

    ids: npt.NDArray[np.int64]  # [N]
    scores: npt.NDArray[np.float64]  # [N]

    def kept(self, where: npt.NDArray[np.bool_]) -> Candidates:
        return Candidates(ids=self.ids[where], scores=self.scores[where])


def sample(logits: npt.NDArray[np.floating], config: SamplingConfig, rng: np.random.Generator) -> int:
    """Chooses one token id; greedy leaves `rng` untouched, anything else draws one number from it.

    Raises:
        LogitsError: the logits [V] hold NaN or +infinity. (-infinity is a token that cannot come.)

    >>> logits = np.array([1.0, 3.0, 2.0], dtype=np.float32)
    >>> sample(logits, GREEDY, np.random.default_rng(0))
    1
    >>> sample(logits, SamplingConfig(top_k=1), np.random.default_rng(0))
    1
    """
    _refuse_non_finite(logits)
    if config.temperature == 0:
        return int(logits.argmax())
    return draw(candidates(logits, config), rng)


def candidates(logits: npt.NDArray[np.floating], config: SamplingConfig) -> Candidates:
    """The tokens that `config` leaves of logits [V], for a temperature above 0."""
    left = temper(logits, config.temperature)
    if config.top_k is not None:
        left = keep_top_k(left, config.top_k)
    if config.top_p is not None:
        left = keep_top_p(left, config.top_p)
    return left


def temper(logits: npt.NDArray[np.floating], temperature: float) -> Candidates:
    """All tokens, with scores (logit - highest logit) / temperature: at most 0, so that exp never overflows."""
    with np.errstate(over="ignore"):  # at temperature 1e-300 all but the highest become -infinity, which is right
        scores = (logits.astype(np.float64) - float(logits.max())) / temperature
    return Candidates(ids=np.arange(len(logits)), scores=scores)


def keep_top_k(left: Candidates, k: int) -> Candidates:
    """The k highest candidates, and those that tie with the lowest of them."""
    if k >= len(left.ids):
        return left
    threshold = np.partition(left.scores, -k)[-k]  # O(N), where sorting the vocabulary costs milliseconds
    return left.kept(left.scores >= threshold)


def keep_top_p(left: Candidates, p: float) -> Candidates:
    """The fewest highest candidates whose probabilities sum to at least p; one at least."""
    if p == 1:
        return left
    # From the lowest up, ties by ascending id, as transformers does: what the removed sum to stays within 1 - p.
    ascending = np.argsort(left.scores, kind="stable")
    removed = np.cumsum(probabilities(left)[ascending]) <= 1 - p
    removed[-1] = False
    where = np.ones(len(left.ids), dtype=np.bool_)
    where[ascending[removed]] = False
    return left.kept(where)


def probabilities(left: Candidates) -> npt.NDArray[np.float64]:
    """The softmax of the candidates' scores, [N]."""
    weights = np.exp(left.scores - left.scores.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def draw(left: Candidates, rng: np.random.Generator) -> int:
    """One candidate's id, by its probability, from one uniform number."""
    cumulative = np.cumsum(probabilities(left))
    total = cumulative[-1]  # which rounding leaves a little off 1
    # Below the total, so that neither the end nor a candidate of probability 0 can be hit.
    number = min(rng.random() * total, np.nextafter(total, 0))
    return int(left.ids[np.searchsorted(cumulative, number, side="right")])


def _refuse_non_finite(logits: npt.NDArray[np.floating]) -> None:
    highest = float(logits.max())  # NaN where any is NaN
    if not math.isfinite(highest):
        raise LogitsError(f"highest logit is {highest}, must be finite; the weights or the graph are damaged")
