"""Prompt-lookup decoding: guess the next tokens from what followed the same words before, and verify them in one step.

Three parts without a session, for a loop that has one. K guesses, V vocabulary::

    index.guess(ledger.guesses(config))          what may come next
    accepted(logits, guesses, sampling, rng)     what does come, by the model's logits [K + 1, V]
    ledger.after(seconds=..., guesses=..., tokens=...)     whether guessing paid, and how many to guess next
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from gpt2_runtime.arguments import check_integer, invalid
from gpt2_runtime.errors import SettingError, shown
from gpt2_runtime.sampling.config import SamplingConfig
from gpt2_runtime.sampling.sampler import Text, sample
from gpt2_runtime.sampling.top_logits import TopLogits

MOST_NGRAM = 64


@dataclass(frozen=True, kw_only=True)
class LookupConfig:
    """What counts as the same words, and how far to guess from them.

    Args:
        max_ngram: as many last tokens are looked for first; the longer the match, the surer the guess. At most 64.
        min_ngram: fewer than this say too little.
        max_guesses: the most tokens guessed at once; how many it is depends on how it goes.

    Raises:
        SettingError: a value out of range.

    >>> LookupConfig(max_guesses=4)
    LookupConfig(max_ngram=3, min_ngram=2, max_guesses=4)
    """

    max_ngram: int = 3
    min_ngram: int = 2
    max_guesses: int = 8

    def __post_init__(self) -> None:
        for name in ("max_ngram", "min_ngram", "max_guesses"):
            check_integer(name, getattr(self, name), 1, remedy="leave it out for the default")
        if self.max_ngram > MOST_NGRAM:
            told = f"max_ngram is {shown(self.max_ngram)}, must be at most {MOST_NGRAM}"
            told = f"{told}: every token is indexed under runs of each length"
            raise SettingError(told, parameter="max_ngram", value=self.max_ngram)
        if self.min_ngram > self.max_ngram:
            told = f"min_ngram is {shown(self.min_ngram)}, must be at most max_ngram, which is {self.max_ngram}"
            raise SettingError(f"{told}; lower it or raise the other", parameter="min_ngram", value=self.min_ngram)


def check_lookup(value: object) -> None:
    """SettingError for what is neither a LookupConfig nor None."""
    if value is not None and not isinstance(value, LookupConfig):
        raise invalid("lookup", value, "must be a LookupConfig", "leave it out to guess nothing")


class LookupIndex:
    """Where each run of tokens was last seen, in a context that grows.

    >>> index = LookupIndex(LookupConfig())
    >>> index.extend([7, 1, 2, 3, 4, 9, 1, 2])
    >>> index.guess(3)
    [3, 4, 9]
    >>> index.extend([5])
    >>> index.guess(3)
    []
    """

    def __init__(self, config: LookupConfig) -> None:
        self._sizes = range(config.max_ngram, config.min_ngram - 1, -1)
        self._ids: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}  # run of tokens -> the place after its last occurrence but the end

    def extend(self, ids: Iterable[int]) -> None:
        """Takes the context's next tokens, each in a time that does not depend on the context's length."""
        for id_ in ids:
            end = len(self._ids)
            for size in self._sizes:
                if size <= end:
                    self._next[tuple(self._ids[end - size :])] = end
            self._ids.append(int(id_))

    def guess(self, count: int) -> list[int]:
        """At most `count` tokens that followed the longest run that the context ends with, when it was last seen."""
        for size in self._sizes:
            start = self._next.get(tuple(self._ids[-size:]))
            if start is not None and size <= len(self._ids):
                # What follows may run into the end, as in "la la la": then it goes on with itself.
                period = len(self._ids) - start
                return [self._ids[start + place % period] for place in range(count)]
        return []


def accepted(
    logits: npt.NDArray[np.floating] | Sequence[npt.NDArray[np.floating] | TopLogits],
    guesses: Sequence[int],
    sampling: SamplingConfig,
    rng: np.random.Generator,
    stops: Collection[int] = (),
    prompt_ids: Text = (),
    new_ids: Text = (),
) -> list[int]:
    """The next tokens, 1 to K + 1 of them: drawn from each row of the logits in turn, until one is not its guess.

    A row's draw takes the guess g with p(g); another token with p(x) = (1 - p(g)) * p(x) / (1 - p(g)): which is
    speculative sampling's acceptance and its renormalised rest, for a draft that is sure of g. And the numbers drawn
    are those of plain decoding, so that a seed's text is the same with and without guesses.

    Args:
        logits: [K + 1, V], after the last token and after each guess; or of each as many as the settings need.
        guesses: [K]; no more than there is room for, as tokens beyond it would draw numbers.
        sampling: how a token is chosen.
        rng: where the draws come from: one for each token that is returned, none where it is greedy.
        stops: tokens after which nothing more is drawn.
        prompt_ids, new_ids: the text before the first of them, for settings that depend on it.

    >>> rows = np.eye(5)[[3, 1, 4]]
    >>> accepted(rows, [3, 0], SamplingConfig(temperature=0), np.random.default_rng(0))
    [3, 1]
    """
    if len(logits) != len(guesses) + 1:
        raise SettingError(f"logits have {len(logits)} rows, must be {len(guesses) + 1}: one more than the guesses")
    tokens: list[int] = []
    for row, guess in zip(logits, (*guesses, None), strict=True):
        so_far = np.concatenate([new_ids, tokens]).astype(np.int64) if tokens else new_ids
        tokens.append(sample(row, sampling, rng, prompt_ids=prompt_ids, new_ids=so_far, stop_token_ids=stops))
        if tokens[-1] != guess or guess in stops:
            break
    return tokens


# Of plain decoding's time so far, the most that wrong guesses may have cost. The promise is 5 %.
SHARE = 0.04
# Plain steps of which the middle one is what a plain step takes: no hiccup of the machine moves it.
RECENT = 9
# A step with one guess reads the same weights as one with none; until it was timed, it is taken to cost this much.
FIRST_COST = 1.25
# Plain steps saved that may be risked again; the rest of what guessing saved stays saved.
MOST_CREDIT = 8.0
# Steps with guesses after which a plain one is due, so that the measure they are taken by does not grow old.
MOST_UNMEASURED = 64


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What guessing has cost and brought, in plain steps, and so how many tokens to guess next. It reads no clock.

    A step with guesses costs its seconds over those of a plain step, and brings its tokens, each of which would have
    been a plain step. It is taken only if, were all its guesses wrong, the loss stayed below SHARE of the plain steps
    that all tokens so far would have been. So text that never repeats is decoded at most 5 % slower. After a step whose
    guesses were all wrong comes a plain one.

    Attributes:
        size: guesses to make where that can be risked: doubled when all come true, halved when not.
        tokens: decoded so far.
        loss: plain steps' worth of time lost; below 0 where guessing saved time.
        plain: the seconds of the last plain steps.
        unmeasured: steps with guesses since the last of them; one that brought nothing counts for all.
        costs: guesses -> what a step with that many last cost.

    >>> ledger = Ledger()
    >>> for _ in range(20):
    ...     ledger = ledger.after(seconds=0.020, guesses=0, tokens=1)
    >>> ledger.guesses(LookupConfig())
    1
    >>> ledger.after(seconds=0.022, guesses=1, tokens=2).guesses(LookupConfig())
    2
    """

    size: int = 1
    tokens: int = 0
    loss: float = 0.0
    plain: tuple[float, ...] = ()
    unmeasured: int = MOST_UNMEASURED
    costs: Mapping[int, float] = field(default_factory=dict)

    def guesses(self, config: LookupConfig) -> int:
        """How many tokens to guess in the next step; 0 is a plain step."""
        if self.unmeasured >= MOST_UNMEASURED:
            return 0
        count = min(self.size, config.max_guesses)
        while count and self.loss + self._cost(count) - 1 > SHARE * (self.tokens + 1):
            count //= 2
        return count

    def after(self, *, seconds: float, guesses: int, tokens: int) -> Ledger:
        """The ledger after one step.

        Args:
            seconds: all that the step took, with the draws and a roll-back.
            guesses: how many tokens it verified.
            tokens: how many it brought, the one that was no guess included.
        """
        if not guesses:
            plain = (*self.plain, seconds)[-RECENT:]
            return replace(self, tokens=self.tokens + tokens, plain=plain, unmeasured=0)
        # To verify a token takes no longer than to decode it: what took longer was a hiccup, or weights being packed.
        cost = min(seconds / sorted(self.plain)[len(self.plain) // 2], 1.0 + guesses)
        right = tokens - 1
        return replace(
            self,
            size=max(self.size, 2 * guesses) if right == guesses else max(guesses // 2, right, 1),
            tokens=self.tokens + tokens,
            loss=max(self.loss + cost - tokens, -MOST_CREDIT),
            unmeasured=self.unmeasured + 1 if right else MOST_UNMEASURED,
            costs={**self.costs, guesses: cost},
        )

    def _cost(self, guesses: int) -> float:
        """What a step with this many guesses will cost at most: what it did, or in proportion to a shorter one."""
        timed = max((count for count in self.costs if count <= guesses), default=None)
        if timed is None:
            return FIRST_COST * (1 + guesses) / 2
        return self.costs[timed] * (1 + guesses) / (1 + timed)
