"""What is asked of a model: a prompt of token ids, and how to continue it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard, cast, get_args

import numpy as np

from gpt2_runtime.errors import EmptyPromptError, PromptError, PromptTooLongError, SettingError, shown
from gpt2_runtime.sampling.config import AS_TRAINED, SamplingConfig, check_sampling

Overflow = Literal["error", "truncate", "slide"]
MOST_LOGPROBS = 100  # alternatives of a token
MOST_SLIDING = 100_000  # new tokens of a text whose window slides: nothing else would end it


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt and its settings, checked as far as they can be without a model.

    Args:
        prompt_ids: the token ids to continue.
        max_new_tokens: at least 0; at most MOST_SLIDING where the window slides.
        sampling: how a token is chosen.
        stop_token_ids: the tokens that end the text; by default the folder's end-of-text token. They are kept as a set.
        overflow: what becomes of text longer than the n_positions tokens the model reads. "error" refuses such a
            prompt and ends the text where the window is full; "truncate" keeps the prompt's last n_positions tokens;
            "slide" does so too, and reads the last half of a full window anew, to go on with.
        logprobs: tell the log-probability of each token, and of so many of the likeliest; None tells none.

    Raises:
        SettingError: a setting is out of range.
        PromptError: `prompt_ids` is no list.
    """

    prompt_ids: Sequence[int]
    max_new_tokens: int
    sampling: SamplingConfig = AS_TRAINED
    stop_token_ids: Collection[int] | None = None
    overflow: Overflow = "error"
    logprobs: int | None = None

    def __post_init__(self) -> None:
        check_prompt(self.prompt_ids)
        check_sampling(self.sampling)
        if not _is_count(self.max_new_tokens):
            raise SettingError(f"max_new_tokens is {shown(self.max_new_tokens)}, must be an integer of at least 0")
        if not isinstance(self.overflow, str) or self.overflow not in get_args(Overflow):
            raise SettingError(f"overflow is {shown(self.overflow)}, must be 'error', 'truncate' or 'slide'")
        if self.overflow == "slide" and self.max_new_tokens > MOST_SLIDING:
            told = f"max_new_tokens is {shown(self.max_new_tokens)}, must be at most {MOST_SLIDING:,} where overflow is"
            raise SettingError(f"{told} 'slide'; continue from the end of that text for more")
        if self.stop_token_ids is not None:
            object.__setattr__(self, "stop_token_ids", _checked_stops(self.stop_token_ids))
        if self.logprobs is not None:
            check_logprobs("logprobs", self.logprobs)

    def fitting(self, limit: int, bos_token_id: int | None) -> Sequence[int]:
        """The prompt as a model can read it: at least one token, at most `limit`.

        Raises:
            EmptyPromptError: there is none.
            PromptTooLongError: there are more, and `overflow` is "error".
        """
        count = len(self.prompt_ids)
        if not count:
            start = "the end-of-text token" if bos_token_id is None else f"the end-of-text token, id {bos_token_id}"
            raise EmptyPromptError(f"prompt has 0 tokens, must have at least 1; start from {start}")
        if count > limit and self.overflow == "error":
            remedy = "shorten it or pass --overflow truncate"
            raise PromptTooLongError(f"prompt has {count} tokens, the model reads {limit}; {remedy}")
        return self.prompt_ids[-limit:]

    def stops(self, eos_token_ids: Collection[int], vocab_size: int) -> frozenset[int]:
        """The tokens that end the text: those asked for, else those of the folder.

        Raises:
            SettingError: one is asked for that the vocabulary does not have, so that it would never end anything.
        """
        if self.stop_token_ids is None:
            return frozenset(id_ for id_ in eos_token_ids if id_ < vocab_size)
        for id_ in self.stop_token_ids:
            if not 0 <= id_ < vocab_size:
                limit = f"must be from 0 to {vocab_size - 1}, the vocabulary's ids; drop it"
                raise SettingError(f"stop_token_ids has token id {shown(id_)}, {limit}")
        return frozenset(self.stop_token_ids)


def check_logprobs(name: str, value: object) -> None:
    """Refuses a number of alternatives to tell that is out of range."""
    if not _is_count(value) or value > MOST_LOGPROBS:
        limit = f"must be an integer from 0 to {MOST_LOGPROBS}"
        raise SettingError(f"{name} is {shown(value)}, {limit}; leave it out for none")


def check_prompt(ids: object) -> None:
    """PromptError for what is no list. Its ids are looked at where they are read: a model knows its vocabulary."""
    listed = ids.ndim == 1 if isinstance(ids, np.ndarray) else isinstance(ids, Sequence)
    if not listed or isinstance(ids, str | bytes | bytearray):
        raise PromptError(f"prompt_ids is {shown(ids)}, must be a list of token ids: [5, 6]")


def _checked_stops(given: object) -> frozenset[int]:
    listed = given.ndim == 1 if isinstance(given, np.ndarray) else isinstance(given, Collection)
    if listed and not isinstance(given, str | bytes):
        ids = list(cast(Collection[Any], given))
        if all(isinstance(id_, int | np.integer) and not isinstance(id_, bool) for id_ in ids):
            return frozenset(int(id_) for id_ in ids)
    raise SettingError(f"stop_token_ids is {shown(given)}, must be a list of integers; leave it out for end-of-text")


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
