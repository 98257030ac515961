"""Logits [V] -> one token id, by controls, then temperature, then filters, then a draw. V vocabulary.

The order and the meaning of each setting are those of transformers' `generate`::

    logit_bias                                      adds to the logits of some tokens
    repetition_penalty                              divides or multiplies those of the text so far
    frequency_penalty, presence_penalty             subtract from those of the new text, by their counts
    no_repeat_ngram_size, bad_words_ids             forbid what would repeat a run or end a bad word
    min_new_tokens                                  forbids the stop tokens while the new text is short
    temperature                                     divides all; 0 takes the likeliest, and nothing below matters
    top_k, top_p, min_p, typical_p                  each keeps some of what the ones before have left

transformers has no frequency and presence penalty: theirs is the definition of OpenAI and vLLM, and the place that of
vLLM, after the repetition penalty. To forbid is to set a logit to -infinity, so the order of what forbids is of no
consequence; nor is its place after the penalties.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeGuard, cast

import numpy as np
import numpy.typing as npt

from gpt2_runtime.candidates import Candidates, draw, keep_min_p, keep_top_k, keep_top_p, keep_typical_p, temper
from gpt2_runtime.controls import (
    Endings,
    add_bias,
    endings,
    forbid,
    forbid_repeated_ngrams,
    forbid_words,
    penalise_counts,
    penalise_repetition,
)
from gpt2_runtime.errors import LogitsError, SettingError, shown
from gpt2_runtime.shortlist import Shortlist

ALL = "leave it out to keep all tokens"
ID = "must be an integer of at least 0; ids are the tokenizer's"
Text = Sequence[int] | npt.NDArray[np.integer]  # token ids

MOST = 1e9  # of a penalty or a bias: no float32 overflows
MOST_BIASES = 300_000  # one for each token of any vocabulary
MOST_BAD_WORDS_IDS, MOST_BAD_IDS = 20_000, 1_000_000  # sequences, and ids of all together: each step looks at all


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _checked_bias(bias: object) -> Iterator[tuple[int, float]]:
    """The pairs of a mapping, or of what this returned, by ascending id."""
    pairs = tuple(bias.items()) if isinstance(bias, Mapping) else bias
    if not isinstance(pairs, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise SettingError(f"logit_bias is {shown(bias)}, must map token ids to numbers; leave it out for none")
    if len(pairs) > MOST_BIASES:
        raise SettingError(f"logit_bias has {len(pairs):,} tokens, must have at most {MOST_BIASES:,}; leave some out")
    for id_, value in pairs:
        if not _is_integer(id_) or id_ < 0:
            raise SettingError(f"logit_bias has token id {shown(id_)}, {ID}")
        if not _is_number(value) or not (value == -math.inf or abs(value) <= MOST):
            limit = f"must be a number from {-MOST:g} to {MOST:g}, or -inf to forbid it"
            raise SettingError(f"logit_bias of token {id_} is {shown(value)}, {limit}")
    yield from sorted((id_, float(value)) for id_, value in pairs)


def _checked_words(words: object) -> Iterator[tuple[int, ...]]:
    if not isinstance(words, list | tuple):
        raise SettingError(
            f"bad_words_ids is {shown(words)}, must be a list of lists of token ids; leave it out for none"
        )
    if len(words) > MOST_BAD_WORDS_IDS:
        limit = f"must have at most {MOST_BAD_WORDS_IDS:,}"
        raise SettingError(f"bad_words_ids has {len(words):,} sequences, {limit}; leave some out")
    count = 0
    for word in words:
        if not isinstance(word, list | tuple) or not word:
            raise SettingError(f"bad_words_ids has {shown(word)}, must be a list of at least one token id")
        for id_ in word:
            if not _is_integer(id_) or id_ < 0:
                raise SettingError(f"bad_words_ids has token id {shown(id_)}, {ID}")
        if (count := count + len(word)) > MOST_BAD_IDS:
            limit = f"must have at most {MOST_BAD_IDS:,} of all sequences together"
            raise SettingError(f"bad_words_ids has {count:,} ids or more, {limit}; leave some out")
        yield tuple(word)


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
        if not _is_number(self.temperature) or not 0 <= self.temperature <= sys.float_info.max:
            raise SettingError(f"temperature is {shown(self.temperature)}, must be a number of at least 0; 0 is greedy")
        if self.top_k is not None and (not _is_integer(self.top_k) or self.top_k < 1):
            raise SettingError(f"top_k is {shown(self.top_k)}, must be an integer of at least 1; {ALL}")
        for name in ("top_p", "typical_p"):
            share = getattr(self, name)
            if share is not None and (not _is_number(share) or not 0 < share <= 1):
                raise SettingError(f"{name} is {shown(share)}, must be above 0 and at most 1; {ALL}")
        if self.min_p is not None and (not _is_number(self.min_p) or not 0 <= self.min_p <= 1):
            raise SettingError(f"min_p is {shown(self.min_p)}, must be a number from 0 to 1; {ALL}")
        for name, least, none in (
            ("repetition_penalty", 1 / MOST, 1),
            ("frequency_penalty", -MOST, 0),
            ("presence_penalty", -MOST, 0),
        ):
            penalty = getattr(self, name)
            if not _is_number(penalty) or not least <= penalty <= MOST:
                limit = f"must be a number from {least:g} to {MOST:g}"
                raise SettingError(f"{name} is {shown(penalty)}, {limit}; {none} is no penalty")
        size = self.no_repeat_ngram_size
        if size is not None and (not _is_integer(size) or size < 1):
            told = "must be an integer of at least 1; leave it out to let any come again"
            raise SettingError(f"no_repeat_ngram_size is {shown(size)}, {told}")
        if not _is_integer(self.min_new_tokens) or self.min_new_tokens < 0:
            told = "must be an integer of at least 0; 0 lets the text end at once"
            raise SettingError(f"min_new_tokens is {shown(self.min_new_tokens)}, {told}")
        # What a caller may go on to change is copied.
        object.__setattr__(self, "logit_bias", tuple(_checked_bias(self.logit_bias)))
        object.__setattr__(self, "bad_words_ids", tuple(_checked_words(self.bad_words_ids)))

    @cached_property
    def controls(self) -> tuple[str, ...]:
        """The names of the settings that change logits before temperature does."""
        return tuple(name for name in CONTROLS if getattr(self, name) != getattr(AS_TRAINED, name))

    @cached_property
    def needed(self) -> int | None:
        """Of how many of the highest logits the next token is one, or ties with the last of them; None for any."""
        if self.controls:
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


CONTROLS = (
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
            raise SettingError(f"{name} has token id {shown(highest)}, {limit}")


def check_sampling(value: object) -> None:
    """SettingError for what is no SamplingConfig."""
    if not isinstance(value, SamplingConfig):
        raise SettingError(f"sampling is {shown(value)}, must be a SamplingConfig; leave it out for the model's own")


def sample(
    logits: npt.NDArray[np.floating] | Shortlist,
    config: SamplingConfig,
    rng: np.random.Generator,
    *,
    prompt_ids: Text = (),
    new_ids: Text = (),
    stop_token_ids: Collection[int] = (),
) -> int:
    """Chooses one token id; greedy leaves `rng` untouched, anything else draws one number from it.

    Args:
        logits: [V], after the last token of the text; or as many of them as `config.needed`. They are left as they are.
        config: how to choose. Its ids must be in the vocabulary, see `check_vocabulary`.
        rng: where the draw comes from.
        prompt_ids, new_ids: the text so far. Only controls ask for it.
        stop_token_ids: what `min_new_tokens` forbids.

    Raises:
        LogitsError: the logits hold NaN or +infinity. (-infinity is a token that cannot come.)
        SettingError: the controls forbid every token, or the logits are fewer than needed.

    >>> logits = np.array([1.0, 3.0, 2.0], dtype=np.float32)
    >>> sample(logits, GREEDY, np.random.default_rng(0))
    1
    >>> sample(logits, SamplingConfig(top_k=1, no_repeat_ngram_size=1), np.random.default_rng(0), prompt_ids=[1])
    2
    """
    if isinstance(logits, Shortlist):
        return _listed(logits, config, rng)
    likeliest = int(logits.argmax())  # the first NaN, where there is one
    highest = float(logits[likeliest])
    if not math.isfinite(highest):
        raise LogitsError(f"highest logit is {highest}, must be finite; the weights or the graph are damaged")
    if config.controls:
        logits = _permitted(logits, config, prompt_ids, new_ids, stop_token_ids)
        likeliest = int(logits.argmax())
    return likeliest if config.temperature == 0 else draw(_filtered(temper(logits, config.temperature), config), rng)


def _listed(found: Shortlist, config: SamplingConfig, rng: np.random.Generator) -> int:
    """The token that `sample` chooses of all logits; those of a shortlist are finite."""
    if config.needed is None or config.needed > found.reach:
        told = "all logits" if config.needed is None else f"the {config.needed} highest logits"
        raise SettingError(f"logits are the {found.reach} highest, must be {told} for these settings; ask for those")
    if config.temperature == 0:
        return int(found.ids[found.logits.argmax()])
    return draw(_filtered(replace(temper(found.logits, config.temperature), ids=found.ids), config), rng)


def candidates(
    logits: npt.NDArray[np.floating],
    config: SamplingConfig,
    *,
    prompt_ids: Text = (),
    new_ids: Text = (),
    stop_token_ids: Collection[int] = (),
) -> Candidates:
    """The tokens that `config` leaves of logits [V], for a temperature above 0. The arguments are those of `sample`.

    Raises:
        SettingError: the controls forbid every token.
    """
    permitted = _permitted(logits, config, prompt_ids, new_ids, stop_token_ids)
    return _filtered(temper(permitted, config.temperature), config)


def controlled(
    logits: npt.NDArray[np.floating],
    config: SamplingConfig,
    *,
    prompt_ids: Text = (),
    new_ids: Text = (),
    stop_token_ids: Collection[int] = (),
) -> npt.NDArray[np.floating]:
    """Logits [V], or log-probabilities, as the controls change them; these very ones where there is no control.

    All of them can be -infinity: then the controls forbid every token.

    >>> controlled(np.array([1.0, 3.0]), SamplingConfig(repetition_penalty=2.0), prompt_ids=[1])
    array([1. , 1.5])
    """
    if not config.controls:
        return logits
    logits = logits.copy()
    text = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in (prompt_ids, new_ids)])
    add_bias(logits, *config.bias)
    if config.repetition_penalty != 1:
        penalise_repetition(logits, text, config.repetition_penalty)
    if config.frequency_penalty or config.presence_penalty:
        penalise_counts(logits, text[len(prompt_ids) :], config.frequency_penalty, config.presence_penalty)
    if config.no_repeat_ngram_size is not None:
        forbid_repeated_ngrams(logits, text, config.no_repeat_ngram_size)
    forbid_words(logits, text, config.bad_endings)
    if len(new_ids) < config.min_new_tokens:
        forbid(logits, stop_token_ids)
    return logits


def _permitted(
    logits: npt.NDArray[np.floating],
    config: SamplingConfig,
    prompt_ids: Text,
    new_ids: Text,
    stop_token_ids: Collection[int],
) -> npt.NDArray[np.floating]:
    """What `controlled` makes of them, if it leaves a token."""
    left = controlled(logits, config, prompt_ids=prompt_ids, new_ids=new_ids, stop_token_ids=stop_token_ids)
    if left is not logits and left.max() == -math.inf:
        told = f"all {len(left)} tokens are forbidden, at least one must be left"
        raise SettingError(f"{told}; loosen {', '.join(config.controls)}")
    return left


def _filtered(left: Candidates, config: SamplingConfig) -> Candidates:
    if config.top_k is not None:
        left = keep_top_k(left, config.top_k)
    if config.top_p is not None:
        left = keep_top_p(left, config.top_p)
    if config.min_p is not None:
        left = keep_min_p(left, config.min_p)
    if config.typical_p is not None:
        left = keep_typical_p(left, config.typical_p)
    return left
