"""Prompt ids -> events: prefill, then step and sample until a stop. It knows no text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np
import numpy.typing as npt

from gpt2_runtime.cache import KeyValueCache
from gpt2_runtime.errors import EmptyPromptError, PromptTooLongError, SettingError
from gpt2_runtime.sampling import AS_TRAINED, SamplingConfig, sample
from gpt2_runtime.session import Session

# The portable graph gives logits at every position: of GPT-2's vocabulary, 1024 positions at once are 206 MB.
PREFILL_CHUNK = 256

FinishReason = Literal["stop", "length"]
Overflow = Literal["error", "truncate"]


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds spent computing, not waiting for whoever consumes the events.

    Attributes:
        first_token_seconds: reading the prompt and choosing the first token; None before that.
        decode_seconds: all the later tokens together.
        decode_tokens: how many those were, a stop token included.
    """

    first_token_seconds: float | None = None
    decode_seconds: float = 0.0
    decode_tokens: int = 0

    @property
    def tokens_per_second(self) -> float | None:
        """The pace of the later tokens; None where there were none."""
        return self.decode_tokens / self.decode_seconds if self.decode_tokens else None

    def after(self, seconds: float) -> Timings:
        """These timings and one token more, which took `seconds`."""
        if self.first_token_seconds is None:
            return Timings(first_token_seconds=seconds)
        return Timings(
            first_token_seconds=self.first_token_seconds,
            decode_seconds=self.decode_seconds + seconds,
            decode_tokens=self.decode_tokens + 1,
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
    return _events(session, prompt, room, sampling, rng or np.random.default_rng(), stops)


def _events(
    session: Session,
    unread: npt.NDArray[np.int64],
    room: int,
    sampling: SamplingConfig,
    rng: np.random.Generator,
    stops: frozenset[int],
) -> Iterator[Event]:
    cache = session.empty_cache()
    timings = Timings()
    for index in range(room):
        start = perf_counter()
        logits, cache = _read(session, unread, cache)
        token_id = sample(logits, sampling, rng)
        timings = timings.after(perf_counter() - start)
        if token_id in stops:
            yield Finished(reason="stop", timings=timings)
            return
        yield Token(id=token_id, index=index, timings=timings)
        unread = np.array([token_id])
    yield Finished(reason="length", timings=timings)


def _read(
    session: Session, ids: npt.NDArray[np.int64], cache: KeyValueCache
) -> tuple[npt.NDArray[np.float32], KeyValueCache]:
    """Reads ids [T] in chunks; the logits [V] after the last of them."""
    for start in range(0, len(ids), PREFILL_CHUNK):
        logits, cache = session.step(ids[None, start : start + PREFILL_CHUNK], cache)  # [1, T, V]
    return logits[0, -1], cache


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
