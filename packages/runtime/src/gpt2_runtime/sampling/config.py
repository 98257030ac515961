"""How the next token is chosen: the settings, always valid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import cast

import numpy as np
import numpy.typing as npt

from gpt2_runtime.arguments import check_integer, check_number, check_type, invalid, is_integer, is_number
from gpt2_runtime.errors import SettingError, shown
from gpt2_runtime.sampling.processors import Endings, endings
from gpt2_runtime.settings import check_settings, setting

ALL = "leave it out to keep all tokens"
ID = "must be an integer of at least 0; ids are the tokenizer's"

MOST = 1e9  # of a penalty or a bias: no float32 overflows
MOST_BIASES = 300_000  # one for each token of any vocabulary
MOST_BAD_WORDS_IDS, MOST_BAD_IDS = 20_000, 1_000_000  # sequences, and ids of all together: each step looks at all


def _check_bias(parameter: str, bias: object) -> tuple[tuple[int, float], ...]:
    """The pairs of a mapping, or of what this returned, by ascending id."""
    pairs = tuple(bias.items()) if isinstance(bias, Mapping) else bias
    if not isinstance(pairs, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise invalid(parameter, bias, "must map token ids to numbers", "leave it out for none")
    if len(pairs) > MOST_BIASES:
        raise _refusal(
            "logit_bias", bias, f"has {len(pairs):,} tokens, must have at most {MOST_BIASES:,}; leave some out"
        )
    for id_, value in pairs:
        if not is_integer(id_) or id_ < 0:
            raise _refusal(parameter, bias, f"has token id {shown(id_)}, {ID}")
        if not is_number(value) or not (value == -math.inf or abs(value) <= MOST):
            limit = f"must be a number from {-MOST:g} to {MOST:g}, or -inf to forbid it"
            raise _refusal(parameter, bias, f"of token {id_} is {shown(value)}, {limit}")
    return tuple(sorted((id_, float(value)) for id_, value in pairs))


def _check_words(parameter: str, words: object) -> tuple[tuple[int, ...], ...]:
    if not isinstance(words, list | tuple):
        raise invalid(parameter, words, "must be a list of lists of token ids", "leave it out for none")
    if len(words) > MOST_BAD_WORDS_IDS:
        limit = f"must have at most {MOST_BAD_WORDS_IDS:,}"
        raise _refusal(parameter, words, f"has {len(words):,} sequences, {limit}; leave some out")
    count = 0
    for word in words:
        if not isinstance(word, list | tuple) or not word:
            raise _refusal(parameter, words, f"has {shown(word)}, must be a list of at least one token id")
        for id_ in word:
            if not is_integer(id_) or id_ < 0:
                raise _refusal(parameter, words, f"has token id {shown(id_)}, {ID}")
        if (count := count + len(word)) > MOST_BAD_IDS:
            limit = f"must have at most {MOST_BAD_IDS:,} of all sequences together"
            raise _refusal(parameter, words, f"has {count:,} ids or more, {limit}; leave some out")
    return tuple(map(tuple, words))


def _refusal(parameter: str, value: object, problem: str) -> SettingError:
    return SettingError(f"{parameter} {problem}", parameter=parameter, value=value)


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
        no_repeat_ngram_size: never repeat a run of this many tokens of the text; None allows it.
        logit_bias: token id -> what is added to its logit; minus infinity forbids it. It is kept as sorted pairs.
        bad_words_ids: sequences of token ids that never come, if not by the prompt. They are kept as tuples.
        min_new_tokens: forbids stop tokens before this many new tokens.

    Raises:
        SettingError: a value out of range.

    >>> SamplingConfig(temperature=0.8, logit_bias={50: 2.0, 7: -1}).logit_bias
    ((7, -1.0), (50, 2.0))
    >>> SamplingConfig(top_p=1.5)
    Traceback (most recent call last):
    ...
    gpt2_runtime.errors.SettingError: top_p is 1.5, must be above 0 and at most 1; leave it out to keep all tokens
    """

    temperature: float = setting(
        1.0,
        partial(check_number, least=0, remedy="0 is greedy"),
        kind=float,
        help="Below 1 is safer, above 1 is wilder, 0 is greedy.",
        shown_default="1.0",
    )
    top_k: int | None = setting(
        None,
        partial(check_integer, least=1, remedy=ALL),
        kind=int,
        help="Sample only from the K likeliest tokens.",
        shown_default="from all",
    )
    top_p: float | None = setting(
        None,
        partial(check_number, least=0, most=1, above=True, remedy=ALL),
        kind=float,
        help="Sample from the smallest set of likeliest tokens whose probabilities sum to this.",
    )
    min_p: float | None = setting(
        None,
        partial(check_number, least=0, most=1, remedy=ALL),
        kind=float,
        help="Sample from tokens at least this fraction as probable as the likeliest.",
    )
    typical_p: float | None = setting(
        None,
        partial(check_number, least=0, most=1, above=True, remedy=ALL),
        kind=float,
        help="Sample from the most typical tokens whose probabilities sum to this.",
    )
    repetition_penalty: float = setting(
        1.0,
        partial(check_number, least=1 / MOST, most=MOST, remedy="1 is no penalty"),
        kind=float,
        help="Above 1, makes tokens that are in the text less likely.",
    )
    frequency_penalty: float = setting(
        0.0,
        partial(check_number, least=-MOST, most=MOST, remedy="0 is no penalty"),
        kind=float,
        help="Subtract this from a token's logit for each time it was generated.",
    )
    presence_penalty: float = setting(
        0.0,
        partial(check_number, least=-MOST, most=MOST, remedy="0 is no penalty"),
        kind=float,
        help="Subtract this once from the logit of every token that was generated.",
    )
    no_repeat_ngram_size: int | None = setting(
        None,
        partial(check_integer, least=1, remedy="leave it out to let any come again"),
        kind=int,
        help="Never repeat a sequence of N tokens.",
        metavar="N",
    )
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = setting(
        (),
        _check_bias,
        kind=dict,
        help="Add BIAS to a token's logit; -inf forbids the token. Repeatable.",
        metavar="ID=BIAS",
    )
    bad_words_ids: Sequence[Sequence[int]] = setting(
        (),
        _check_words,
        kind=list,
        many=True,
        help="Never generate this sequence of tokens. Repeatable.",
        option="--bad-word-ids",
        metavar="IDS",
    )
    min_new_tokens: int = setting(
        0,
        partial(check_integer, least=0, remedy="0 lets the text end at once"),
        kind=int,
        help="Generate at least this many tokens before a stop token.",
    )

    def __post_init__(self) -> None:
        check_settings(self)

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
    """Refuses a token id of `logit_bias` or `bad_words_ids` outside a vocabulary of this size.

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


def check_sampling(value: object) -> SamplingConfig:
    """SettingError for anything but a SamplingConfig."""
    return check_type("sampling", value, SamplingConfig, "leave it out for the model's own")
