"""Text of any length -> log-likelihood and perplexity, in windows with a stride, as transformers documents it.

The page "Perplexity of fixed-length models" starts a window every `stride` tokens. A window holds `window` tokens, the
last one the rest, and scores the tokens that are in no earlier window. A token with nothing before it has no score:
the first of the text, and without overlap the first of every window. Where windows overlap, tokens are read again:
keys and values depend on a token's position, so they cannot be reused at another one.

The page's perplexity is exp(sum of weight x loss / sum of weights) over the windows. A loss is the mean over a window's
scored tokens; its weight is the number of new tokens in the window, minus one. Without overlap that is the number of
scored tokens. With overlap it is one too few after the first window, and at a stride of 1 only the first window counts.
`Perplexity.perplexity` is the page's figure, for comparison with published ones; in `token_perplexity` each scored
token counts once. A window without a scored token makes the page's loop compute 0 x NaN; here it is skipped.

On WikiText-2 (test split, joined by two newlines) the page reports 19.44 for gpt2-large at a stride of 1024, and 16.44
at 512. For gpt2 its users report 29.94 at 1024.
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
    """The tokens `begin` to `end` of a text; those from `fresh` on are in no earlier window."""

    begin: int
    end: int
    fresh: int


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """The sums over the windows read so far.

    Attributes:
        tokens: the number of tokens read.
        scored_tokens: the number of tokens with a token before them in their window.
        log_likelihood: the sum of their log-probabilities.
        windows: the number of windows.
        weighted_loss: the page's sum of weight x loss over the windows.
        weight: the sum of the weights.
    """

    tokens: int = 0
    scored_tokens: int = 0
    log_likelihood: float = 0.0
    windows: int = 0
    weighted_loss: float = 0.0
    weight: int = 0

    def after(self, scores: Sequence[TokenScore]) -> Perplexity:
        """The sums after one more window, whose new tokens these are."""
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
        """The page's figure, with its weights."""
        return _exp(self.weighted_loss / self.weight)

    @property
    def token_perplexity(self) -> float:
        """The perplexity in which each scored token counts once."""
        return _exp(-self.log_likelihood / self.scored_tokens)

    def bits_per_byte(self, scored_bytes: int) -> float:
        """The information of the scored tokens, in bits, divided by the number of their bytes."""
        return -self.log_likelihood / math.log(2) / scored_bytes


def score_windows(
    session: Session, ids: Sequence[int], *, window: int | None = None, stride: int | None = None, top: int = 0
) -> Iterator[tuple[Window, tuple[TokenScore, ...]]]:
    """Scores a text window by window; yields each window with the scores of its new tokens.

    The scores of all windows together are one per token, in order. At most one chunk of logits is in memory at a time.

    Args:
        session: the session to run.
        ids: at least 2 token ids.
        window: tokens per window, from 2 to n_positions; by default n_positions.
        stride: tokens from one window to the next; by default half a window, which for GPT-2 is the page's 512.
        top: how many of the likeliest tokens to return for each position.

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
        problem = f"text has {counted(len(row), 'token')}, must have at least 2; {UNSCORED}"
        raise EmptyPromptError(problem, parameter="ids", value=ids)
    size, step = window_and_stride(session, window, stride)
    # The checks above run when this is called, the loop at the first `next`.
    return _score_windows(session, row, size, step, top)


def perplexity(
    session: Session, ids: Sequence[int], *, window: int | None = None, stride: int | None = None
) -> Perplexity:
    """Scores a text; takes the arguments and raises the errors of `score_windows`.

    >>> result = perplexity(session, list(range(100)), window=32, stride=16)
    >>> result.tokens, result.scored_tokens, result.windows
    (100, 99, 6)
    >>> math.isclose(result.perplexity, result.token_perplexity, rel_tol=0.05)
    True
    """
    result = Perplexity()
    for _, scores in score_windows(session, ids, window=window, stride=stride):
        result = result.after(scores)
    return result


def window_and_stride(session: Session, window: int | None = None, stride: int | None = None) -> tuple[int, int]:
    """Window and stride, checked, or their defaults; SettingError if one is out of range."""
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
    """exp(loss), or infinity where that overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
