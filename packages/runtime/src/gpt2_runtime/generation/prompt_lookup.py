"""Prompt-lookup decoding: draft the next tokens from what followed the same words before, and verify them in one step.

Three parts without a session, for a loop that has one. K draft tokens, V vocabulary::

    index.draft(budget.draft_tokens(most))           what may come next
    verify_draft(logits, draft, sampling, rng)       what does come, by the model's logits [K + 1, V]
    budget.after(seconds=..., drafted=..., tokens=...)     whether drafts paid, and how many tokens to draft next
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
    """What counts as the same words, and how far to draft from them.

    Args:
        max_ngram: as many last tokens are looked for first; the longer the match, the surer the draft. At most 64.
        min_ngram: fewer than this say too little.
        max_draft_tokens: the most tokens drafted at once; how many it is depends on how it goes.

    Raises:
        SettingError: a value out of range.

    >>> LookupConfig(max_draft_tokens=4)
    LookupConfig(max_ngram=3, min_ngram=2, max_draft_tokens=4)
    """

    max_ngram: int = 3
    min_ngram: int = 2
    max_draft_tokens: int = 8

    def __post_init__(self) -> None:
        for name in ("max_ngram", "min_ngram", "max_draft_tokens"):
            check_integer(name, getattr(self, name), 1, remedy="leave it out for the default")
        if self.max_ngram > MOST_NGRAM:
            problem = f"max_ngram is {shown(self.max_ngram)}, must be at most {MOST_NGRAM}"
            problem = f"{problem}: every token is indexed under runs of each length"
            raise SettingError(problem, parameter="max_ngram", value=self.max_ngram)
        if self.min_ngram > self.max_ngram:
            problem = f"min_ngram is {shown(self.min_ngram)}, must be at most max_ngram, which is {self.max_ngram}"
            raise SettingError(f"{problem}; lower it or raise the other", parameter="min_ngram", value=self.min_ngram)


def check_lookup(value: object) -> None:
    """SettingError for what is neither a LookupConfig nor None."""
    if value is not None and not isinstance(value, LookupConfig):
        raise invalid("lookup", value, "must be a LookupConfig", "leave it out for no drafts")


class LookupIndex:
    """Where each run of tokens was last seen, in a context that grows.

    >>> index = LookupIndex(LookupConfig())
    >>> index.extend([7, 1, 2, 3, 4, 9, 1, 2])
    >>> index.draft(3)
    [3, 4, 9]
    >>> index.extend([5])
    >>> index.draft(3)
    []
    """

    def __init__(self, config: LookupConfig) -> None:
        self._sizes = range(config.max_ngram, config.min_ngram - 1, -1)
        self._ids: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}  # run of tokens -> the place after its last occurrence but the end

    def __len__(self) -> int:
        return len(self._ids)

    def extend(self, ids: Iterable[int]) -> None:
        """Takes the context's next tokens, each in a time that does not depend on the context's length."""
        for id_ in ids:
            end = len(self._ids)
            for size in self._sizes:
                if size <= end:
                    self._next[tuple(self._ids[end - size :])] = end
            self._ids.append(int(id_))

    def draft(self, count: int) -> list[int]:
        """At most `count` tokens that followed the longest run that the context ends with, when it was last seen."""
        for size in self._sizes:
            start = self._next.get(tuple(self._ids[-size:]))
            if start is not None and size <= len(self._ids):
                # What follows may run into the end, as in "la la la": then it continues with itself.
                period = len(self._ids) - start
                return [self._ids[start + place % period] for place in range(count)]
        return []


def verify_draft(
    logits: npt.NDArray[np.floating] | Sequence[npt.NDArray[np.floating] | TopLogits],
    draft: Sequence[int],
    sampling: SamplingConfig,
    rng: np.random.Generator,
    stops: Collection[int] = (),
    prompt_ids: Text = (),
    new_ids: Text = (),
) -> list[int]:
    """The next tokens, 1 to K + 1 of them: drawn from each row of the logits in turn, until one is not its draft token.

    A row's draw takes the draft token d with p(d); another token with p(x) = (1 - p(d)) * p(x) / (1 - p(d)): which is
    speculative sampling's acceptance and its renormalised rest, for a draft that is sure of d. And the numbers drawn
    are those of plain decoding, so that a seed's text is the same with and without drafts.

    Args:
        logits: [K + 1, V], after the last token and after each draft token; or of each as many as the settings need.
        draft: [K]; no more than there is room for, as tokens beyond it would draw numbers.
        sampling: how a token is chosen.
        rng: where the draws come from: one for each token that is returned, none where it is greedy.
        stops: tokens after which nothing more is drawn.
        prompt_ids, new_ids: the text before the first of them, for settings that depend on it.

    >>> rows = np.eye(5)[[3, 1, 4]]
    >>> verify_draft(rows, [3, 0], SamplingConfig(temperature=0), np.random.default_rng(0))
    [3, 1]
    """
    if len(logits) != len(draft) + 1:
        raise SettingError(f"logits have {len(logits)} rows, must be {len(draft) + 1}: one more than the draft")
    tokens: list[int] = []
    for row, drafted in zip(logits, (*draft, None), strict=True):
        so_far = np.concatenate([new_ids, tokens]).astype(np.int64) if tokens else new_ids
        tokens.append(sample(row, sampling, rng, prompt_ids=prompt_ids, new_ids=so_far, stop_token_ids=stops))
        if tokens[-1] != drafted or drafted in stops:
            break
    return tokens


# Of plain decoding's time so far, the most that wrong drafts may have cost. The promise is 5 %.
SHARE = 0.04
# Plain steps; the middle one of them is what a plain step takes: no hiccup of the machine moves it.
RECENT = 9
# A step with one draft token reads the same weights as one with none; until it was timed, it is taken to cost this
# much. (Among other rows, one with a draft is a run of its own, which reads all weights once more.)
FIRST_COST = 1.25
# Plain steps saved that may be risked again; the rest of what drafts saved stays saved.
MOST_CREDIT = 8.0
# Steps with drafts after which a plain one is due, so that the measure they are taken by does not grow old.
MOST_UNMEASURED = 64


@dataclass(frozen=True, kw_only=True)
class DraftBudget:
    """What drafts have cost and brought, in plain steps, and so how many tokens to draft next. It reads no clock.

    It is of the steps of one text, or of several rows that are stepped together, as long as they are the same. A step
    with drafts costs its seconds over those of a plain step, and brings each row its tokens, which would each have been
    a plain step: the row that got fewest counts, for it has waited for the others. Drafts are taken only if, were all
    wrong, the loss stayed below SHARE of the plain steps that all tokens so far would have been. So a text that never
    repeats is at most 5 % slower, whatever its neighbours draft. After a step whose drafts were all wrong comes a plain
    one.

    Attributes:
        size: tokens to draft for a row where that can be risked: doubled when all come true, halved when not.
        tokens: decoded so far, of the row with fewest.
        loss: plain steps' worth of time lost; below 0 where drafts saved time.
        plain: the seconds of the last plain steps.
        unmeasured: steps with drafts since the last of them; one that brought nothing counts for all.
        costs: (rows with a draft, its tokens) -> what such a step last cost.

    >>> budget = DraftBudget()
    >>> for _ in range(20):
    ...     budget = budget.after(seconds=0.020, drafted=0, tokens=1)
    >>> budget.draft_tokens(8)
    1
    >>> budget.after(seconds=0.022, drafted=1, tokens=2).draft_tokens(8)
    2
    """

    size: int = 1
    tokens: int = 0
    loss: float = 0.0
    plain: tuple[float, ...] = ()
    unmeasured: int = MOST_UNMEASURED
    costs: Mapping[tuple[int, int], float] = field(default_factory=dict)

    def draft_tokens(self, most: int, *, drafting: int = 1, plain: int = 0) -> int:
        """How many tokens to draft in the next step; 0 is a plain step.

        Args:
            most: the longest draft there is.
            drafting: how many rows have one.
            plain: how many rows have none.
        """
        if self.unmeasured >= MOST_UNMEASURED:
            return 0
        count = min(self.size, most)
        while count and not (self._affords(drafting, count, plain) and self._pays(drafting, count, plain)):
            count //= 2
        return count

    def after(
        self, *, seconds: float, drafted: int, tokens: int, right: int | None = None, drafting: int = 1, plain: int = 0
    ) -> DraftBudget:
        """The budget after one step.

        Args:
            seconds: all that the step took, with the draws and a roll-back.
            drafted: the tokens of its longest draft.
            tokens: how many it brought, the one that was not drafted included: to the row that got fewest.
            right: how many of them came true, in the draft where that is fewest; a shorter draft that was all right
                counts for a whole one. By default all of the tokens but one.
            drafting, plain: how many rows had a draft, and how many none.
        """
        if not drafted:
            recent = (*self.plain, seconds)[-RECENT:]
            return replace(self, tokens=self.tokens + tokens, plain=recent, unmeasured=0)
        # What took longer than it can was a hiccup, or weights being packed.
        cost = min(seconds / sorted(self.plain)[len(self.plain) // 2], _most_cost(drafting, drafted, plain))
        right = tokens - 1 if right is None else right
        return replace(
            self,
            size=max(self.size, 2 * drafted) if right == drafted else max(drafted // 2, right, 1),
            tokens=self.tokens + tokens,
            loss=max(self.loss + cost - tokens, -MOST_CREDIT),
            unmeasured=self.unmeasured + 1 if right else MOST_UNMEASURED,
            costs={**self.costs, (drafting, drafted): cost},
        )

    def _affords(self, drafting: int, count: int, plain: int) -> bool:
        """Whether the loss stays small enough where all drafts are wrong."""
        return self.loss + self._cost(drafting, count, plain) - 1 <= SHARE * (self.tokens + 1)

    def _pays(self, drafting: int, count: int, plain: int) -> bool:
        """Whether a step with such drafts, as far as it was timed, brings more than plain steps where all come true."""
        rows = drafting + plain
        return self.costs.get((drafting, count), 0.0) * rows <= rows + drafting * count

    def _cost(self, drafting: int, count: int, plain: int) -> float:
        """What a step with such drafts will cost at most: what it did, or in proportion to a shorter one."""
        timed = max((length for rows, length in self.costs if rows == drafting and length <= count), default=None)
        if timed is not None:
            return self.costs[drafting, timed] * (1 + count) / (1 + timed)
        return FIRST_COST * (1 + count) / 2 if drafting + plain == 1 else _most_cost(drafting, count, plain)


def _most_cost(drafting: int, count: int, plain: int) -> float:
    """The plain steps that a step with drafts takes at most: to verify a token takes no longer than to decode it."""
    return drafting * (1.0 + count) + bool(plain)
