"""What a generation yields: tokens, then an end, each with the time it took so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds spent computing, not waiting for whoever consumes the events. In a batch, a step counts for all its rows.

    Attributes:
        first_token_seconds: reading the prompt and choosing the first token; None before that.
        decode_seconds: all the later tokens together.
        decode_tokens: how many those were, a stop token included.
        draft_tokens: how many tokens prompt lookup drafted.
        accepted_tokens: how many of them came true.
    """

    first_token_seconds: float | None = None
    decode_seconds: float = 0.0
    decode_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def tokens_per_second(self) -> float | None:
        """The pace of the later tokens; None where there were none."""
        return self.decode_tokens / self.decode_seconds if self.decode_tokens else None

    def after(self, seconds: float, drafted: int = 0, accepted: int = 0) -> Timings:
        """These timings and one token more, which took `seconds` and the verification of `drafted` tokens."""
        if self.first_token_seconds is None:
            return Timings(first_token_seconds=seconds)
        return Timings(
            first_token_seconds=self.first_token_seconds,
            decode_seconds=self.decode_seconds + seconds,
            decode_tokens=self.decode_tokens + 1,
            draft_tokens=self.draft_tokens + drafted,
            accepted_tokens=self.accepted_tokens + accepted,
        )


@dataclass(frozen=True, kw_only=True)
class Token:
    """The `index`-th new token, counted from 0.

    Attributes:
        logprob: the natural logarithm of the probability that the model gave it, before any setting changed that;
            None unless requested.
        top_logprobs: the requested number of likeliest tokens with theirs, likeliest first.
    """

    id: int
    index: int
    timings: Timings
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The last event.

    Attributes:
        reason: "stop": the model chose a stop token, which has no event of its own. "length": no room left.
        truncated: how many tokens of the prompt were left out, from its start.
        slides: how often the window was moved on.
        reused: how many tokens of the prompt were not computed, for an earlier one starts with them.
    """

    reason: FinishReason
    timings: Timings
    truncated: int = 0
    slides: int = 0
    reused: int = 0


Event = Token | Finished
