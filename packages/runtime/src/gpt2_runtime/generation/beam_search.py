"""Beam search: the likeliest texts that a few beams find, best first. R running beams, V vocabulary, N new tokens.

It is transformers' `generate(num_beams=..., do_sample=False)` of one prompt. The algorithm itself knows no session::

    text = prompt.tolist()
    search = advanced(START, scores, config)         scores [1, V] of what may come first
    while not over(search, config):
        search = advanced(search, scores, config)    scores [R, V] of what may come next

Where transformers differs: a beam that it does not have is one with the score -1e9. While there are fewer texts than
beams (a tiny vocabulary, nearly all tokens forbidden) those go on, and can come out; here there are fewer beams, and
fewer results. And a text whose own score is lower, as a length_penalty of -4 can make it, is lost there and not here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt

from gpt2_runtime.arguments import check_choice, check_integer, check_number, check_type, invalid
from gpt2_runtime.engine.cache import MOST_ROWS
from gpt2_runtime.engine.session import Session
from gpt2_runtime.errors import SettingError, shown
from gpt2_runtime.generation.config import Overflow
from gpt2_runtime.generation.events import FinishReason
from gpt2_runtime.generation.request import Request
from gpt2_runtime.sampling.config import GREEDY, PROCESSORS, SamplingConfig, check_vocabulary
from gpt2_runtime.sampling.logprobs import log_softmax
from gpt2_runtime.sampling.sampler import apply_processors

EarlyStopping = bool | Literal["never"]

MOST_BEAMS = MOST_ROWS  # each is a row of the cache
# With its tenth power the longest text's score is still a number of float32.
STRONGEST_PENALTY = 10.0


@dataclass(frozen=True, kw_only=True)
class Beam:
    """A text that the search found.

    Attributes:
        token_ids: its new tokens; a stop token is not among them.
        score: the sum of the tokens' log-probabilities, a stop token's included, divided by their number to the power
            of length_penalty: transformers' sequences_scores.
        finish_reason: "stop" at a stop token, "length" where there was no room left.
        stop_token_id: the token that it stopped at; None where it did not. Texts may differ in it alone.
    """

    token_ids: tuple[int, ...]
    score: float
    finish_reason: FinishReason
    stop_token_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class BeamConfig:
    """What to search for, as passed to `beam_search`.

    Raises:
        SettingError: a value out of range.
    """

    num_beams: int
    max_new_tokens: int
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    stop_token_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        check_integer("num_beams", self.num_beams, 1, MOST_BEAMS)
        check_integer("max_new_tokens", self.max_new_tokens, 0)
        check_integer("num_return_sequences", self.num_return_sequences, 1, self.num_beams, why=", which is num_beams")
        strongest = STRONGEST_PENALTY
        check_number("length_penalty", self.length_penalty, -strongest, strongest, remedy="0 is none")
        stopping = self.early_stopping
        if not isinstance(stopping, bool) and not (isinstance(stopping, str) and stopping == "never"):
            raise invalid("early_stopping", stopping, "must be True, False or 'never'")

    def score(self, log_probability: float, length: int) -> float:
        """What texts are compared by: `log_probability` over their length to the power of the penalty."""
        return log_probability / float(length**self.length_penalty)

    @property
    def candidates(self) -> int:
        """Enough candidates that num_beams of them continue even if all others are stop tokens."""
        return self.num_beams * (1 + max(1, len(self.stop_token_ids)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """How far a search has come.

    Attributes:
        token_ids: the new tokens of each running beam, [R, N], the likeliest beam first.
        log_probabilities: the sum of each, [R].
        rows: which of the beams before its last token each of them continues, [R].
        finished: the best texts that have ended, num_beams at most, best first.
    """

    token_ids: npt.NDArray[np.int64]
    log_probabilities: npt.NDArray[np.float64]
    rows: npt.NDArray[np.intp]
    finished: tuple[Beam, ...]


START = Search(
    token_ids=np.empty((1, 0), dtype=np.int64),
    log_probabilities=np.zeros(1),
    rows=np.zeros(1, dtype=np.intp),
    finished=(),
)
"""One beam, which has no new tokens yet."""


def beam_search(
    session: Session,
    prompt_ids: Sequence[int],
    *,
    num_beams: int,
    num_return_sequences: int = 1,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
    sampling: SamplingConfig = GREEDY,
    stop_token_ids: Collection[int] | None = None,
    overflow: Overflow = "error",
) -> tuple[Beam, ...]:
    """The likeliest continuations of a prompt among those that `num_beams` beams find.

    The prompt is read once. One beam is greedy decoding, which ends at the first stop token.

    Args:
        session: what computes.
        prompt_ids: at least one id; to start from nothing, pass the end-of-text token.
        num_beams: how many texts go on at once. 1 to MOST_BEAMS.
        num_return_sequences: how many of them to return, at most num_beams.
        max_new_tokens: at least 0; the model's positions may end the texts sooner.
        length_penalty: above 0 favours longer texts, below 0 shorter ones: a text is compared by its log-probability
            over its length to this power.
        early_stopping: True ends the search as soon as num_beams texts have ended; False goes on while the best
            running beam would be among them if it ended now; "never" while it can be at all.
        sampling: controls of the scores, the penalties and what is forbidden. Nothing is drawn, so temperature is 0.
        stop_token_ids: the tokens that end a text; by default the folder's end-of-text token.
        overflow: what becomes of a prompt longer than the model reads: "error" refuses it, "truncate" keeps its last
            n_positions tokens.

    Returns:
        The texts, best first; fewer than num_return_sequences where no more are possible.

    Raises:
        PromptError: the prompt is empty, too long, or has an id outside the vocabulary.
        SettingError: a setting is out of range, or the controls forbid every token.
        LogitsError: the model computed NaN or infinity.

    >>> best, second = beam_search(session, [5, 6, 7], num_beams=4, num_return_sequences=2, max_new_tokens=8)
    >>> best.score >= second.score, len(best.token_ids), best.finish_reason
    (True, 8, 'length')
    """
    check_type("session", session, Session)
    check_choice("overflow", overflow, ("error", "truncate"), "beam search keeps one window")
    request = Request(
        prompt_ids=prompt_ids,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_token_ids=stop_token_ids,
        overflow=overflow,
    )
    limit = session.bundle.architecture.n_positions
    prompt = session.check_row(request.fitting(limit, session.bundle.bos_token_id))
    room = min(max_new_tokens, limit - len(prompt) + 1)
    config = BeamConfig(
        num_beams=num_beams,
        max_new_tokens=room,
        num_return_sequences=num_return_sequences,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        stop_token_ids=request.stops(session.bundle.eos_token_ids, session.bundle.architecture.vocab_size),
    )
    check_draws_nothing(sampling)
    check_vocabulary(sampling, session.bundle.architecture.vocab_size)
    if not room:
        return (Beam(token_ids=(), score=0.0, finish_reason="length"),)
    logits, cache = session.step([prompt], session.empty_cache(capacity=len(prompt) + room - 1))  # the last is not read
    text = prompt.tolist()
    search = advanced(START, next_scores(logits[:, -1], START, config, sampling, text), config)
    while not over(search, config):
        logits, cache = session.step(search.token_ids[:, -1:], cache.reorder(search.rows))
        search = advanced(search, next_scores(logits[:, -1], search, config, sampling, text), config)
    if not search.finished:
        problem = f"after {search.token_ids.shape[1] - 1} new tokens all are forbidden, at least one must be left"
        raise SettingError(f"{problem}; loosen {', '.join(sampling.processors)}")
    return search.finished[:num_return_sequences]


def advanced(search: Search, scores: npt.NDArray[np.floating], config: BeamConfig) -> Search:
    """The search after one more token of each running beam.

    Args:
        search: which is not over.
        scores: the log-probability of each token after each beam, [R, V]; -infinity is a token that cannot come.
        config: what is searched for.
    """
    rows, tokens, sums = continuations(scores, search.log_probabilities, config.candidates)
    token_ids = np.column_stack([search.token_ids[rows], tokens])  # [candidates, N + 1]
    length = token_ids.shape[1]
    stops = np.isin(tokens, list(config.stop_token_ids))
    ends = stops | (length == config.max_new_tokens)
    # Those after the first num_beams are there to go on where others end; none of them ends a text.
    ended = [
        Beam(
            token_ids=tuple(token_ids[place, : length - int(stops[place])].tolist()),
            score=config.score(float(sums[place]), length),
            finish_reason="stop" if stops[place] else "length",
            stop_token_id=int(tokens[place]) if stops[place] else None,
        )
        for place in np.flatnonzero(ends[: config.num_beams])
    ]
    finished = sorted((*search.finished, *ended), key=lambda beam: beam.score, reverse=True)
    on = np.flatnonzero(~ends)[: config.num_beams]
    return Search(
        token_ids=token_ids[on],
        log_probabilities=sums[on],
        rows=rows[on],
        finished=tuple(finished[: config.num_beams]),
    )


def over(search: Search, config: BeamConfig) -> bool:
    """Whether no better text is to be expected, as `early_stopping` has it; or nothing goes on."""
    if not len(search.rows):
        return True
    if len(search.finished) < config.num_beams:
        return False
    if config.early_stopping is True or config.num_beams == 1:
        return True
    longest = config.early_stopping == "never" and config.length_penalty > 0
    length = config.max_new_tokens if longest else search.token_ids.shape[1]
    return config.score(float(search.log_probabilities[0]), length) <= search.finished[-1].score


def continuations(
    scores: npt.NDArray[np.floating], before: npt.NDArray[np.float64], count: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """At most `count` continuations of beams with the highest sums, highest first; of equals the earlier beam's.

    Args:
        scores: of each token after each beam, [R, V].
        before: the sum of each beam so far, [R].

    Returns:
        their beams, their tokens and their sums.

    >>> rows, tokens, sums = continuations(np.array([[-1.0, -3.0], [-np.inf, -0.5]]), np.array([-1.0, -3.0]), 3)
    >>> rows.tolist(), tokens.tolist(), sums.tolist()
    ([0, 1, 0], [0, 1, 1], [-2.0, -3.5, -4.0])
    """
    most = min(count, scores.shape[1])
    of_each = np.sort(np.argpartition(scores, -most, axis=1)[:, -most:], axis=1)  # [R, most], not yet by score
    sums = before[:, None] + np.take_along_axis(scores, of_each, axis=1)
    order = np.argsort(-sums, axis=None, kind="stable")[:count]
    order = order[np.isfinite(sums.ravel()[order])]
    rows, places = np.divmod(order, most)
    return rows, of_each[rows, places], sums[rows, places]


def next_scores(
    logits: npt.NDArray[np.float32],
    search: Search,
    config: BeamConfig,
    sampling: SamplingConfig,
    prompt: Sequence[int],
) -> npt.NDArray[np.floating]:
    """What each token adds to each beam's sum: its log-probability, as the controls of `sampling` change it, [R, V].

    Args:
        logits: after each beam of the search, [R, V].

    Raises:
        LogitsError: a row holds NaN or +infinity, or nothing else than -infinity.
    """
    log_probabilities = log_softmax(logits)
    if not sampling.processors:
        return log_probabilities
    # transformers controls log-probabilities, but of one beam, which is greedy decoding, the logits.
    greedy = config.num_beams == 1
    left = np.array(
        [
            apply_processors(row, sampling, prompt_ids=prompt, new_ids=new_ids, stop_token_ids=config.stop_token_ids)
            for row, new_ids in zip(logits if greedy else log_probabilities, search.token_ids.tolist(), strict=True)
        ]
    )
    return log_softmax(left) if greedy and np.isfinite(left).any() else left


def check_draws_nothing(sampling: SamplingConfig) -> None:
    """SettingError where `sampling` has what only a draw can heed."""
    for field in fields(sampling):
        value, neutral = getattr(sampling, field.name), getattr(GREEDY, field.name)
        if field.name not in PROCESSORS and value != neutral:
            limit = f"must be {shown(neutral)}, as beam search draws no token"
            raise invalid(field.name, value, limit, "start from GREEDY")
