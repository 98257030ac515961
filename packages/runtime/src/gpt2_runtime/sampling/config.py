"""How the next token is chosen: the settings, none of which can be wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt

from gpt2_runtime.arguments import check_integer, check_number, check_type, invalid, is_integer, is_number
from gpt2_runtime.errors import SettingError, shown
from gpt2_runtime.sampling.processors import Endings, endings

ALL = "leave it out to keep all tokens"
ID = "must be an integer of at least 0; ids are the tokenizer's"

MOST = 1e9  # of a penalty or a bias: no float32 overflows
MOST_BIASES = 300_000  # one for each token of any vocabulary
MOST_BAD_WORDS_IDS, MOST_BAD_IDS = 20_000, 1_000_000  # sequences, and ids of all together: each step looks at all


def _checked_bias(bias: object) -> Iterator[tuple[int, float]]:
    """The pairs of a mapping, or of what this returned, by ascending id."""
    pairs = tuple(bias.items()) if isinstance(bias, Mapping) else bias
    if not isinstance(pairs, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise invalid("logit_bias", bias, "must map token ids to numbers", "leave it out for none")
    if len(pairs) > MOST_BIASES:
        raise _refusal(
            "logit_bias", bias, f"has {len(pairs):,} tokens, must have at most {MOST_BIASES:,}; leave some out"
        )
    for id_, value in pairs:
        if not is_integer(id_) or id_ < 0:
            raise _refusal("logit_bias", bias, f"has token id {shown(id_)}, {ID}")
        if not is_number(value) or not (value == -math.inf or abs(value) <= MOST):
            limit = f"must be a number from {-MOST:g} to {MOST:g}, or -inf to forbid it"
            raise _refusal("logit_bias", bias, f"of token {id_} is {shown(value)}, {limit}")
    yield from sorted((id_, float(value)) for id_, value in pairs)


def _checked_words(words: object) -> Iterator[tuple[int, ...]]:
    if not isinstance(words, list | tuple):
        raise invalid("bad_words_ids", words, "must be a list of lists of token ids", "leave it out for none")
    if len(words) > MOST_BAD_WORDS_IDS:
        limit = f"must have at most {MOST_BAD_WORDS_IDS:,}"
        raise _refusal("bad_words_ids", words, f"has {len(words):,} sequences, {limit}; leave some out")
    count = 0
    for word in words:
        if not isinstance(word, list | tuple) or not word:
            raise _refusal("bad_words_ids", words, f"has {shown(word)}, must be a list of at least one token id")
        for id_ in word:
            if not is_integer(id_) or id_ < 0:
                raise _refusal("bad_words_ids", words, f"has token id {shown(id_)}, {ID}")
        if (count := count + len(word)) > MOST_BAD_IDS:
            limit = f"must have at most {MOST_BAD_IDS:,} of all sequences together"
            raise _refusal("bad_words_ids", words, f"has {count:,} ids or more, {limit}; leave some out")
        yield tuple(word)


def _refusal(parameter: str, value: object, told: str) -> SettingError:
    return SettingError(f"{parameter} {told}", parameter=parameter, value=value)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen. The default is GPT-2's own distribution, as it was trained.

    The text is the prompt and the new tokens; the new text is the new tokens alone.

    Args:
        temperature: divides the logits; below 1 sharpens, above 1 flattens, and 0 always takes the likeliest token.
        top_k: keep the k likeliest tokens, and all that tie with the last of them; None keeps all.
        top_p: keep the fewest likeliest tokens whose probabilities reach this sum; None keeps all.
        min_p: keep the tokens that are at least this share as probable as the likeliest; None keeps all.
        typical_p: keep the fewest tokens that reach this sum, of those whose surprise is nearest to the one expected,
            and all that tie with the last of them; None keeps all.
        repetition_penalty: divides the positive and multiplies the negative logits of the tokens of the text.
        frequency_penalty: is subtracted from a token's logit for each time that it is in the new text.
        presence_penalty: is subtracted from the logit of each token of the new text.
        no_repeat_ngram_size: no run of so many tokens comes twice in the text; None lets it.
        logit_bias: token id -> what is added to its logit; minus infinity forbids it. It is kept as sorted pairs.
        bad_words_ids: sequences of token ids that never come, if not by the prompt. They are kept as tuples.
        min_new_tokens: no stop token comes before there are so many new tokens.

    Raises:
        SettingError: a value out of range.

    >>> SamplingConfig(temperature=0.8, logit_bias={50: 2.0, 7: -1}).logit_bias
    ((7, -1.0), (50, 2.0))
    >>> SamplingConfig(top_p=1.5)
    Traceback (most recent call last):
    ...
    gpt2_runtime.errors.SettingError: top_p is 1.5, must be above 0 and at most 1; leave it out to keep all tokens
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram_size: int | None = None
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    bad_words_ids: Sequence[Sequence[int]] = ()
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0, remedy="0 is greedy")
        if self.top_k is not None:
            check_integer("top_k", self.top_k, 1, remedy=ALL)
        for name in ("top_p", "typical_p"):
            if (share := getattr(self, name)) is not None:
                check_number(name, share, 0, 1, above=True, remedy=ALL)
        if self.min_p is not None:
            check_number("min_p", self.min_p, 0, 1, remedy=ALL)
        check_number("repetition_penalty", self.repetition_penalty, 1 / MOST, MOST, remedy="1 is no penalty")
        for name in ("frequency_penalty", "presence_penalty"):
            check_number(name, getattr(self, name), -MOST, MOST, remedy="0 is no penalty")
        if self.no_repeat_ngram_size is not None:
            remedy = "leave it out to let any come again"
            check_integer("no_repeat_ngram_size", self.no_repeat_ngram_size, 1, remedy=remedy)
        check_integer("min_new_tokens", self.min_new_tokens, 0, remedy="0 lets the text end at once")
        # What a caller may go on to change is copied.
        object.__setattr__(self, "logit_bias", tuple(_checked_bias(self.logit_bias)))
        object.__setattr__(self, "bad_words_ids", tuple(_checked_words(self.bad_words_ids)))

    @cached_property
    def processors(self) -> tuple[str, ...]:
        """The names of the settings that change logits before temperature does."""
        return tuple(name for name in PROCESSORS if getattr(self, name) != getattr(AS_TRAINED, name))

    @cached_property
    def needed(self) -> int | None:
        """Of how many of the highest logits the next token is one, or ties with the last of them; None for any."""
        if self.processors:
            return None
        return 1 if self.temperature == 0 else self.top_k

    @cached_property
    def bias(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The ids and the values of `logit_bias`, [N] and [N]."""
        pairs = cast(tuple[tuple[int, float], ...], self.logit_bias)
        ids, values = [id_ for id_, _ in pairs], [value for _, value in pairs]
        return np.array(ids, dtype=np.int64), np.array(values, dtype=np.float32)

    @cached_property
    def bad_endings(self) -> Endings:
        """The sequences of `bad_words_ids`, as they are looked for."""
        return endings(self.bad_words_ids)


PROCESSORS = (
    "logit_bias",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "min_new_tokens",
)
AS_TRAINED = SamplingConfig()
GREEDY = SamplingConfig(temperature=0.0)


def check_vocabulary(config: SamplingConfig, vocab_size: int) -> None:
    """Refuses a token id of `logit_bias` or `bad_words_ids` that a vocabulary of so many ids does not have.

    Raises:
        SettingError: there is one.

    >>> check_vocabulary(SamplingConfig(logit_bias={300: 1.0}), 300)
    Traceback (most recent call last):
    ...
    gpt2_runtime.errors.SettingError: logit_bias has token id 300, must be below 300, the vocabulary's size; drop it
    """
    pairs = cast(tuple[tuple[int, float], ...], config.logit_bias)
    biased, words = (id_ for id_, _ in pairs), (id_ for word in config.bad_words_ids for id_ in word)
    for name, ids in (("logit_bias", biased), ("bad_words_ids", words)):
        highest = max(ids, default=0)
        if highest >= vocab_size:
            limit = f"must be below {vocab_size}, the vocabulary's size; drop it"
            raise _refusal(name, getattr(config, name), f"has token id {shown(highest)}, {limit}")


def check_sampling(value: object) -> None:
    """SettingError for anything but a SamplingConfig."""
    check_type("sampling", value, SamplingConfig, "leave it out for the model's own")
