"""Text of any length -> log-likelihood and perplexity, in windows with a stride, as transformers documents it.

Its page "Perplexity of fixed-length models" starts a window every `stride` tokens. A window holds `window` tokens, the
last one what is left, and scores those that no window before it held. The first token of a text has nothing before it,
nor has that of a window where windows do not overlap: they have no score. Where windows overlap, tokens are read again:
a position is part of a token's keys and values, so that they cannot be moved to another place.

The page's perplexity is exp(sum of weight x loss / sum of weights) over the windows. A loss is the mean over a window's
scored tokens, its weight one less than the tokens that are new in it. Without overlap that is the number of scored
tokens. With overlap it is one too few after the first window, and at a stride of 1 the first window is all that counts.
`Perplexity.perplexity` is the page's figure, to be compared with published ones; in `token_perplexity` each scored
token counts once. A window in which no token can be scored makes the page's loop 0 x NaN; here it counts for nothing.

On WikiText-2 (test split, joined by two newlines) the page tells 19.44 for gpt2-large at a stride of 1024, and 16.44 at
512. For gpt2 its users report 29.94 at 1024.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpt2_runtime.arguments import check_integer, check_type
from gpt2_runtime.engine.session import Session
from gpt2_runtime.errors import EmptyPromptError, counted
from gpt2_runtime.scoring.score import UNSCORED, TokenScore, log_likelihood, score


@dataclass(frozen=True, kw_only=True)
class Window:
    """The tokens `begin` to `end` of a text, of which those from `fresh` on were in no window before."""

    begin: int
    end: int
    fresh: int


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """What is known after some windows of a text.

    Attributes:
        tokens: that were read.
        scored_tokens: those that had something before them in their window.
        log_likelihood: the sum of their log-probabilities.
        windows: how many.
        weighted_loss: the sum of weight x loss over the windows, as the page has it.
        weight: the sum of the weights.
    """

    tokens: int = 0
    scored_tokens: int = 0
    log_likelihood: float = 0.0
    windows: int = 0
    weighted_loss: float = 0.0
    weight: int = 0

    def after(self, scores: Sequence[TokenScore]) -> Perplexity:
        """This and one window more, of which these are the tokens that no window before it has held."""
        likelihood = log_likelihood(scores)
        count = sum(token.logprob is not None for token in scores)
        weight = len(scores) - 1
        return Perplexity(
            tokens=self.tokens + len(scores),
            scored_tokens=self.scored_tokens + count,
            log_likelihood=self.log_likelihood + likelihood,
            windows=self.windows + 1,
            weighted_loss=self.weighted_loss + (weight * -likelihood / count if count else 0.0),
            weight=self.weight + weight,
        )

    @property
    def perplexity(self) -> float:
        """By the page's weights."""
        return _exp(self.weighted_loss / self.weight)

    @property
    def token_perplexity(self) -> float:
        """Where each scored token counts once."""
        return _exp(-self.log_likelihood / self.scored_tokens)

    def bits_per_byte(self, scored_bytes: int) -> float:
        """The scored tokens' information by the bytes that they stand for."""
        return -self.log_likelihood / math.log(2) / scored_bytes


def score_windows(
    session: Session, ids: Sequence[int], *, window: int | None = None, stride: int | None = None, top: int = 0
) -> Iterator[tuple[Window, tuple[TokenScore, ...]]]:
    """Logits a text window by window: yields each with the scores of the tokens that are new in it.

    All scores together are one for each token, in order. Memory holds one window's logits in chunks, never all of them.

    Args:
        session: what computes.
        ids: at least 2.
        window: tokens of a window, from 2 to n_positions; by default all that the model reads.
        stride: from one window to the next; by default half a window, which is the page's 512 for GPT-2.
        top: how many of the likeliest tokens to tell at each place.

    Raises:
        EmptyPromptError: fewer than 2 ids.
        TokenIdError: an id outside the vocabulary.
        SettingError: a setting is out of range.

    >>> for window, scores in score_windows(session, [5, 6, 7, 8, 9, 10], window=4, stride=2):
    ...     print(window.begin, window.end, [token.id for token in scores])
    0 4 [5, 6, 7, 8]
    2 6 [9, 10]
    """
    check_type("session", session, Session)
    row = session.check_row(ids)
    if len(row) < 2:
        told = f"text has {counted(len(row), 'token')}, must have at least 2; {UNSCORED}"
        raise EmptyPromptError(told, parameter="ids", value=ids)
    size, step = window_and_stride(session, window, stride)
    # The checks above run at the call, the loop at the first `next`.
    return _score_windows(session, row, size, step, top)


def perplexity(
    session: Session, ids: Sequence[int], *, window: int | None = None, stride: int | None = None
) -> Perplexity:
    """Logits a text; arguments and errors are those of `score_windows`.

    >>> found = perplexity(session, list(range(100)), window=32, stride=16)
    >>> found.tokens, found.scored_tokens, found.windows
    (100, 99, 6)
    >>> math.isclose(found.perplexity, found.token_perplexity, rel_tol=0.05)
    True
    """
    found = Perplexity()
    for _, scores in score_windows(session, ids, window=window, stride=stride):
        found = found.after(scores)
    return found


def window_and_stride(session: Session, window: int | None = None, stride: int | None = None) -> tuple[int, int]:
    """Both, checked, or their defaults; SettingError where one is out of range."""
    limit = session.bundle.architecture.n_positions
    window = limit if window is None else window
    check_integer("window", window, 2, limit, why=", which the model reads")
    stride = window // 2 if stride is None else stride
    check_integer("stride", stride, 1, window, why=", the window")
    return window, stride


def windows(length: int, window: int, stride: int) -> Iterator[Window]:
    """The windows of a text of `length` tokens.

    >>> [(w.begin, w.end, w.fresh) for w in windows(9, window=4, stride=2)]
    [(0, 4, 0), (2, 6, 4), (4, 8, 6), (6, 9, 8)]
    """
    fresh = 0
    for begin in range(0, length, stride):
        end = min(begin + window, length)
        yield Window(begin=begin, end=end, fresh=fresh)
        if end == length:
            return
        fresh = end


def _score_windows(
    session: Session, ids: npt.NDArray[np.int64], size: int, stride: int, top: int
) -> Iterator[tuple[Window, tuple[TokenScore, ...]]]:
    cache = session.empty_cache(capacity=size - 1)  # the last token of a window is not read
    for window in windows(len(ids), size, stride):
        first = max(window.fresh, window.begin + 1)
        scores: tuple[TokenScore, ...] = ()
        if first < window.end:
            held = ids[window.begin : window.end]
            scores, cache = score(session, held, first=first - window.begin, top=top, cache=cache.crop(0))
        unscored = tuple(TokenScore(id=int(ids[place])) for place in range(window.fresh, first))
        yield window, unscored + scores


def _exp(loss: float) -> float:
    """Infinite where float64 ends."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
