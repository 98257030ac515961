"""What is asked of a model: a prompt of token ids, and how to continue it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from gpt2_runtime.arguments import check_choice, check_integer, checked_ids, is_list
from gpt2_runtime.errors import EmptyPromptError, PromptError, PromptTooLongError, SettingError, shown
from gpt2_runtime.sampling.config import AS_TRAINED, SamplingConfig, check_sampling

Overflow = Literal["error", "truncate", "slide"]
MOST_LOGPROBS = 100  # alternatives of a token
END = "leave it out for end-of-text"
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
        check_integer("max_new_tokens", self.max_new_tokens, 0)
        check_choice("overflow", self.overflow, get_args(Overflow))
        if self.overflow == "slide" and self.max_new_tokens > MOST_SLIDING:
            told = f"max_new_tokens is {shown(self.max_new_tokens)}, must be at most {MOST_SLIDING:,} where overflow is"
            told = f"{told} 'slide'; continue from the end of that text for more"
            raise SettingError(told, parameter="max_new_tokens", value=self.max_new_tokens)
        if self.stop_token_ids is not None:
            object.__setattr__(self, "stop_token_ids", checked_ids("stop_token_ids", self.stop_token_ids, END))
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
            told = f"prompt has 0 tokens, must have at least 1; start from {start}"
            raise EmptyPromptError(told, parameter="prompt_ids", value=self.prompt_ids)
        if count > limit and self.overflow == "error":
            remedy = "shorten it or pass --overflow truncate"
            told = f"prompt has {count} tokens, the model reads {limit}; {remedy}"
            raise PromptTooLongError(told, parameter="prompt_ids", value=self.prompt_ids)
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
                told = f"stop_token_ids has token id {shown(id_)}, {limit}"
                raise SettingError(told, parameter="stop_token_ids", value=self.stop_token_ids)
        return frozenset(self.stop_token_ids)


def check_logprobs(parameter: str, value: object) -> None:
    """Refuses a number of alternatives that is out of range."""
    check_integer(parameter, value, 0, MOST_LOGPROBS, remedy="leave it out for none")


def check_prompt(ids: object) -> None:
    """PromptError for anything but a list. Its ids are looked at where they are read: a model knows its vocabulary."""
    if not is_list(ids):
        told = f"prompt_ids is {shown(ids)}, must be a list of token ids: [5, 6]"
        raise PromptError(told, parameter="prompt_ids", value=ids)
