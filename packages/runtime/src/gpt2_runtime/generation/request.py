"""A request of a model: a prompt of token ids, and how to continue it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

from gpt2_runtime.arguments import is_list
from gpt2_runtime.errors import EmptyPromptError, PromptError, PromptTooLongError, SettingError, shown
from gpt2_runtime.generation.config import GenerationConfig


@dataclass(frozen=True, kw_only=True)
class Request(GenerationConfig):
    """One prompt and its settings, checked as far as they can be without a model.

    Args:
        prompt_ids: the token ids to continue. The others are those of `GenerationConfig`.

    Raises:
        SettingError: a setting is out of range.
        PromptError: `prompt_ids` is not a list.
    """

    prompt_ids: Sequence[int]

    def __post_init__(self) -> None:
        check_prompt(self.prompt_ids)
        super().__post_init__()

    @classmethod
    def with_config(cls, prompt_ids: Sequence[int], config: GenerationConfig) -> Request:
        """The request to continue `prompt_ids` as `config` says."""
        return cls(
            prompt_ids=prompt_ids, **{each.name: getattr(config, each.name) for each in fields(GenerationConfig)}
        )

    def fitting(self, limit: int, bos_token_id: int | None) -> Sequence[int]:
        """The prompt as a model can read it: at least one token, at most `limit`.

        Raises:
            EmptyPromptError: there is none.
            PromptTooLongError: there are more, and `overflow` is "error".
        """
        count = len(self.prompt_ids)
        if not count:
            start = "the end-of-text token" if bos_token_id is None else f"the end-of-text token, id {bos_token_id}"
            problem = f"prompt has 0 tokens, must have at least 1; start from {start}"
            raise EmptyPromptError(problem, parameter="prompt_ids", value=self.prompt_ids)
        if count > limit and self.overflow == "error":
            remedy = "shorten it or pass overflow='truncate'"
            problem = f"prompt has {count} tokens, the model reads {limit}; {remedy}"
            raise PromptTooLongError(problem, parameter="prompt_ids", value=self.prompt_ids)
        return self.prompt_ids[-limit:]

    def stops(self, eos_token_ids: Collection[int], vocab_size: int) -> frozenset[int]:
        """The tokens that end the text: those requested, else the folder's.

        Raises:
            SettingError: one is outside the vocabulary, so it would never end the text.
        """
        if self.stop_token_ids is None:
            return frozenset(id_ for id_ in eos_token_ids if id_ < vocab_size)
        for id_ in self.stop_token_ids:
            if not 0 <= id_ < vocab_size:
                limit = f"must be from 0 to {vocab_size - 1}, the vocabulary's ids; drop it"
                problem = f"stop_token_ids has token id {shown(id_)}, {limit}"
                raise SettingError(problem, parameter="stop_token_ids", value=self.stop_token_ids)
        return frozenset(self.stop_token_ids)


def check_prompt(ids: object) -> None:
    """PromptError for anything but a list. Its ids are looked at where they are read: a model knows its vocabulary."""
    if not is_list(ids):
        problem = f"prompt_ids is {shown(ids)}, must be a list of token ids: [5, 6]"
        raise PromptError(problem, parameter="prompt_ids", value=ids)
