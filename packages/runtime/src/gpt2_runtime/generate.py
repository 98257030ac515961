"""Prompt ids -> events: prefill, then step and sample until a stop. It knows no text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal

import numpy as np
import numpy.typing as npt

from gpt2_runtime.errors import EmptyPromptError, PromptTooLongError, SettingError
from gpt2_runtime.lookup import Ledger, LookupConfig, LookupIndex, accepted
from gpt2_runtime.sampling import AS_TRAINED, SamplingConfig
from gpt2_runtime.session import Session

FinishReason = Literal["stop", "length"]
Overflow = Literal["error", "truncate"]


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds spent computing, not waiting for whoever consumes the events.

    Attributes:
        first_token_seconds: reading the prompt and choosing the first token; None before that.
        decode_seconds: all the later tokens together.
        decode_tokens: how many those were, a stop token included.
        guesses: how many tokens prompt-lookup guessed.
        guesses_right: how many of them came true.
    """

    first_token_seconds: float | None = None
    decode_seconds: float = 0.0
    decode_tokens: int = 0
    guesses: int = 0
    guesses_right: int = 0

    @property
    def tokens_per_second(self) -> float | None:
        """The pace of the later tokens; None where there were none."""
        return self.decode_tokens / self.decode_seconds if self.decode_tokens else None

    def after(self, seconds: float, *, guesses: int = 0, right: int = 0) -> Timings:
        """These timings and one token more, which took `seconds` and the verification of `guesses`."""
        if self.first_token_seconds is None:
            return Timings(first_token_seconds=seconds)
        return replace(
            self,
            decode_seconds=self.decode_seconds + seconds,
            decode_tokens=self.decode_tokens + 1,
            guesses=self.guesses + guesses,
            guesses_right=self.guesses_right + right,
        )


@dataclass(frozen=True, kw_only=True)
class Token:
    """The `index`-th new token, counted from 0."""

    id: int
    index: int
    timings: Timings


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The last event. "stop": the model chose a stop token, which is no event of its own. "length": no room left."""

    reason: FinishReason
    timings: Timings


Event = Token | Finished


def generate(
    session: Session,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig = AS_TRAINED,
    rng: np.random.Generator | None = None,
    stop_token_ids: Collection[int] | None = None,
    overflow: Overflow = "error",
    lookup: LookupConfig | None = None,
) -> Iterator[Event]:
    """Continues a prompt: yields a Token for each new token, then one Finished.

    The last token chosen never has to be read, so a prompt of n_positions tokens still has room for one.

    Args:
        session: what computes.
        prompt_ids: at least one id; to start from nothing, pass the end-of-text token.
        max_new_tokens: at least 0; the model's positions may end the text sooner.
        sampling: how a token is chosen.
        rng: where the draws come from; by default a fresh generator that cannot be repeated.
        stop_token_ids: the tokens that end the text; by default the folder's end-of-text token.
        overflow: what becomes of a prompt longer than the model reads: "error" refuses it, "truncate" keeps its last
            n_positions tokens.
        lookup: guess the next tokens from what followed the same words before, and verify several in one step. The
            tokens are those of decoding without it, and come sooner where a text repeats itself or its prompt.

    Raises:
        PromptError: the prompt is empty, too long, or has an id outside the vocabulary.
        SettingError: a setting is out of range.

    >>> from gpt2_runtime import GREEDY
    >>> events = list(generate(session, [5, 6, 7], max_new_tokens=3, sampling=GREEDY, stop_token_ids=()))
    >>> [event.index for event in events[:-1]], events[-1].reason
    ([0, 1, 2], 'length')
    """
    limit = session.bundle.architecture.n_positions
    fitting = _fitting(prompt_ids, limit, overflow, session.bundle.bos_token_id)
    (prompt,) = session.check_ids(fitting[None])
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 0:
        raise SettingError(f"max_new_tokens is {max_new_tokens!r}, must be an integer of at least 0")
    stops = frozenset(session.bundle.eos_token_ids if stop_token_ids is None else stop_token_ids)
    room = min(max_new_tokens, limit - len(prompt) + 1)
    # The checks above run at the call, the loop at the first `next`.
    return _events(session, prompt, room, sampling, rng or np.random.default_rng(), stops, lookup)


def _events(
    session: Session,
    prompt: npt.NDArray[np.int64],
    room: int,
    sampling: SamplingConfig,
    rng: np.random.Generator,
    stops: frozenset[int],
    lookup: LookupConfig | None,
) -> Iterator[Event]:
    timings = Timings()
    cache = session.empty_cache(capacity=len(prompt) + max(0, room - 1))  # the last token is not read
    guesser = None if lookup is None else _Guesser(lookup)
    new = unread = prompt.tolist()
    done = 0
    while done < room:
        start = perf_counter()
        guesses = guesser.guess(new, room - done - 1) if guesser else []
        logits, cache = session.step([unread + guesses], cache, 1 + len(guesses))  # [1, 1 + G, V]
        tokens = accepted(logits[0], guesses, sampling, rng, stops)  # from 1 to 1 + G
        right = len(tokens) - 1
        if wrong := len(guesses) - right:
            cache = cache.rolled_back(cache.lengths[0] - wrong)
        seconds = perf_counter() - start
        if guesser and done:  # the first step reads the prompt, and measures nothing
            guesser.learn(seconds, guesses=len(guesses), tokens=len(tokens))
        timings = timings.after(seconds, guesses=len(guesses), right=right)
        for index, token in enumerate(tokens, done):
            if index > done:
                timings = timings.after(0.0)
            if token in stops:
                yield Finished(reason="stop", timings=timings)
                return
            yield Token(id=token, index=index, timings=timings)
        new, unread, done = tokens, tokens[-1:], done + len(tokens)
    yield Finished(reason="length", timings=timings)


class _Guesser:
    """What the context says may come next, as far as guessing has paid."""

    def __init__(self, config: LookupConfig) -> None:
        self._config = config
        self._index = LookupIndex(config)
        self._ledger = Ledger()

    def guess(self, new: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens after the context, which goes on with `new`."""
        self._index.extend(new)
        count = min(self._ledger.guesses(self._config), most)
        return self._index.guess(count) if count else []

    def learn(self, seconds: float, *, guesses: int, tokens: int) -> None:
        """What a step cost and brought."""
        self._ledger = self._ledger.after(seconds=seconds, guesses=guesses, tokens=tokens)


def _fitting(
    prompt_ids: Sequence[int], limit: int, overflow: Overflow, bos_token_id: int | None
) -> npt.NDArray[np.integer]:
    """The prompt [T] as the model can read it, 1 <= T <= limit."""
    if overflow not in ("error", "truncate"):
        raise SettingError(f"overflow is {overflow!r}, must be 'error' or 'truncate'")
    count = len(prompt_ids)
    if not count:
        start = "the end-of-text token" if bos_token_id is None else f"the end-of-text token, id {bos_token_id}"
        raise EmptyPromptError(f"prompt has 0 tokens, must have at least 1; start from {start}")
    if count > limit and overflow == "error":
        raise PromptTooLongError(f"prompt has {count} tokens, the model reads {limit}; shorten it or pass --truncate")
    return np.asarray(prompt_ids[-limit:])
