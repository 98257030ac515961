"""Token ids -> their log-probabilities and ranks, and the tokens the model thought likelier. Handles ids only, no text.

T ids, K logits of a step, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpt2_runtime.arguments import check_integer, check_type, invalid
from gpt2_runtime.engine.cache import KeyValueCache
from gpt2_runtime.engine.session import Session
from gpt2_runtime.errors import EmptyPromptError, PromptTooLongError, SettingError, counted
from gpt2_runtime.sampling.logprobs import likeliest, log_softmax

# Positions whose logits are held at once: 51 MB for GPT-2's vocabulary, where all 1024 positions would take 206 MB.
# The graphs read a long text in chunks of this size anyway.
CHUNK = 256

UNSCORED = "the first token has no score, since nothing comes before it"


@dataclass(frozen=True, kw_only=True)
class TokenScore:
    """The model's score of one token, given all the tokens before it.

    Attributes:
        id: the token.
        logprob: the natural logarithm of its probability; None for a token with nothing before it.
        rank: 1 for the token that greedy decoding would choose here; None if `logprob` is None.
        top_logprobs: the requested number of likeliest tokens with their log-probabilities, the likeliest first.
    """

    id: int
    logprob: float | None = None
    rank: int | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


def score(
    session: Session,
    ids: Sequence[int] | npt.NDArray[np.integer],
    *,
    first: int = 1,
    top: int = 0,
    cache: KeyValueCache | None = None,
) -> tuple[tuple[TokenScore, ...], KeyValueCache]:
    """Scores `ids[first:]`, each given all ids before it. The last id is scored without being read.

    Args:
        session: the session to run.
        ids: from 2 to n_positions + 1 token ids.
        first: the first id to score; the ids before it are context.
        top: how many of the likeliest tokens to return for each position.
        cache: a cache of one row that has read fewer than `first` of these ids; by default all of them are read.

    Returns:
        a score for each of `ids[first:]`, and the cache, which has read `ids[:-1]`.

    Raises:
        EmptyPromptError: fewer than 2 ids, so there is nothing to score.
        PromptTooLongError: more ids than the model has positions for.
        TokenIdError: an id outside the vocabulary.
        SettingError: `first`, `top` or `cache` is out of range.
        LogitsError: the model computed NaN or infinity.

    >>> scores, cache = score(session, [5, 6, 7, 8], first=2, top=1)
    >>> [token.id for token in scores], cache.lengths
    ([7, 8], (3,))
    >>> all((token.rank == 1) == (token.id == token.top_logprobs[0][0]) for token in scores)
    True
    """
    check_type("session", session, Session)
    row = _checked(session, ids)
    sizes = session.bundle.architecture
    check_integer("first", first, 1, len(row) - 1)
    check_integer("top", top, 0, sizes.vocab_size)
    # Sized for these ids; by default a cache has room for all the model's positions.
    cache = session.empty_cache(capacity=len(row) - 1) if cache is None else cache
    if not isinstance(cache, KeyValueCache):
        raise invalid("cache", cache, "must come from empty_cache or a step")
    if cache.batch_size != 1 or cache.lengths[0] >= first:
        problem = f"cache has {cache.batch_size} rows and {max(cache.lengths)} tokens"
        problem = f"{problem}; it must have 1 row and fewer than the {first} tokens before the first score"
        raise SettingError(problem, parameter="cache", value=cache)
    scores: list[TokenScore] = []
    for start in range(cache.lengths[0], len(row) - 1, CHUNK):
        stop = min(start + CHUNK, len(row) - 1)
        keep = min(stop - start, stop - first + 1)  # below 1 if the whole chunk is context
        logits, cache = session.step([row[start:stop]], cache, max(keep, 1))  # [1, K, V]
        scores += [_scored(logits[0, place - keep], int(row[stop + 1 + place - keep]), top) for place in range(keep)]
    return tuple(scores), cache


def score_prompt(session: Session, ids: Sequence[int], *, top: int = 0) -> tuple[TokenScore, ...]:
    """Scores a prompt as completion APIs echo it: one entry per id; the first has no score, with nothing before it.

    Takes the arguments and raises the errors of `score`, but accepts a single id.

    >>> [token.logprob is None for token in score_prompt(session, [5, 6, 7])]
    [True, False, False]
    """
    check_type("session", session, Session)
    row = session.check_row(ids)
    if len(row) == 1:
        check_integer("top", top, 0, session.bundle.architecture.vocab_size)
        return (TokenScore(id=int(row[0])),)
    scores, _ = score(session, row, top=top)
    return (TokenScore(id=int(row[0])), *scores)


def log_likelihood(scores: Sequence[TokenScore]) -> float:
    """The sum of the log-probabilities of the tokens that have one."""
    return math.fsum(token.logprob for token in scores if token.logprob is not None)


def _scored(logits: npt.NDArray[np.float32], token: int, top: int) -> TokenScore:
    """The score of a token, from the logits [V] before it."""
    logprobs = log_softmax(logits)
    # If tokens tie, the lowest id comes first, as in greedy decoding.
    rank = 1 + np.count_nonzero(logits > logits[token]) + np.count_nonzero(logits[:token] == logits[token])
    return TokenScore(
        id=token,
        logprob=float(logprobs[token]),
        rank=int(rank),
        top_logprobs=likeliest(logprobs, top),
    )


def _checked(session: Session, ids: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """The ids [T], 2 <= T <= n_positions + 1."""
    row = session.check_row(ids)
    if len(row) < 2:
        problem = f"text has {counted(len(row), 'token')}, must have at least 2; {UNSCORED}"
        raise EmptyPromptError(problem, parameter="ids", value=ids)
    limit = session.bundle.architecture.n_positions
    if len(row) > limit + 1:
        problem = f"text has {len(row)} tokens, the model reads {limit} and scores one more"
        raise PromptTooLongError(f"{problem}; score a long text in windows", parameter="ids", value=ids)
    return row
