"""Logits [V] -> one token id: logits processors, then temperature, then filters, then a draw. V vocabulary.

The settings have the order and meaning of transformers' `generate`::

    logit_bias                                      adds to the logits of some tokens
    repetition_penalty                              divides or multiplies the logits of tokens in the text so far
    frequency_penalty, presence_penalty             subtract from those of the new text, by their counts
    no_repeat_ngram_size, bad_words_ids             forbid tokens that would repeat a run or complete a bad word
    min_new_tokens                                  forbids the stop tokens while the new text is short
    temperature                                     divides all logits; 0 takes the likeliest and skips the filters
    top_k, top_p, min_p, typical_p                  each keeps some of the tokens left by the ones before

transformers has no frequency or presence penalty: these follow OpenAI's and vLLM's definition, and vLLM's order, after
the repetition penalty. Forbidding sets a logit to -infinity, so the order among the settings that forbid does not
matter, nor does their place after the penalties.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gpt2_runtime.errors import LogitsError, SettingError
from gpt2_runtime.sampling.config import SamplingConfig
from gpt2_runtime.sampling.filters import (
    Candidates,
    apply_temperature,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical_p,
)
from gpt2_runtime.sampling.processors import (
    add_bias,
    forbid,
    forbid_repeated_ngrams,
    forbid_words,
    penalise_counts,
    penalise_repetition,
)
from gpt2_runtime.sampling.top_logits import TopLogits

Text = Sequence[int] | npt.NDArray[np.integer]  # token ids


def sample(
    logits: npt.NDArray[np.floating] | TopLogits,
    config: SamplingConfig,
    rng: np.random.Generator,
    *,
    prompt_ids: Text = (),
    new_ids: Text = (),
    stop_token_ids: Collection[int] = (),
) -> int:
    """Chooses one token id; greedy leaves `rng` untouched, anything else draws one number from it.

    Args:
        logits: [V], after the last token of the text; or the `config.needed` highest. They are not modified.
        config: how to choose. Its ids must be in the vocabulary; see `check_vocabulary`.
        rng: the random generator for the draw.
        prompt_ids, new_ids: the text so far. Only the processors use it.
        stop_token_ids: the tokens that `min_new_tokens` forbids.

    Raises:
        LogitsError: the logits hold NaN or +infinity. (-infinity marks a token that is never chosen.)
        SettingError: the processors forbid every token, or there are fewer logits than needed.

    >>> from gpt2_runtime import GREEDY
    >>> logits = np.array([1.0, 3.0, 2.0], dtype=np.float32)
    >>> sample(logits, GREEDY, np.random.default_rng(0))
    1
    >>> sample(logits, SamplingConfig(top_k=1, no_repeat_ngram_size=1), np.random.default_rng(0), prompt_ids=[1])
    2
    """
    if isinstance(logits, TopLogits):
        return _sample_top(logits, config, rng)
    likeliest = int(logits.argmax())  # the first NaN, if there is one
    highest = float(logits[likeliest])
    if not math.isfinite(highest):
        raise LogitsError(f"highest logit is {highest}, must be finite; the weights or the graph are damaged")
    if config.processors:
        logits = _permitted(logits, config, prompt_ids, new_ids, stop_token_ids)
        likeliest = int(logits.argmax())
    return (
        likeliest
        if config.temperature == 0
        else draw(_filtered(apply_temperature(logits, config.temperature), config), rng)
    )


def _sample_top(top: TopLogits, config: SamplingConfig, rng: np.random.Generator) -> int:
    """The token that `sample` would choose from all logits; these few are known to be finite."""
    if config.needed is None or config.needed > top.reach:
        needed = "all logits" if config.needed is None else f"the {config.needed} highest logits"
        raise SettingError(f"logits are the {top.reach} highest, must be {needed} for these settings; pass those")
    if config.temperature == 0:
        return int(top.ids[top.logits.argmax()])
    return draw(_filtered(replace(apply_temperature(top.logits, config.temperature), ids=top.ids), config), rng)


def candidates(
    logits: npt.NDArray[np.floating],
    config: SamplingConfig,
    *,
    prompt_ids: Text = (),
    new_ids: Text = (),
    stop_token_ids: Collection[int] = (),
) -> Candidates:
    """The tokens of logits [V] that `config` keeps, for a temperature above 0. Takes the arguments of `sample`.

    Raises:
        SettingError: the processors forbid every token.
    """
    permitted = _permitted(logits, config, prompt_ids, new_ids, stop_token_ids)
    return _filtered(apply_temperature(permitted, config.temperature), config)


def apply_processors(
    logits: npt.NDArray[np.floating],
    config: SamplingConfig,
    *,
    prompt_ids: Text = (),
    new_ids: Text = (),
    stop_token_ids: Collection[int] = (),
) -> npt.NDArray[np.floating]:
    """Logits [V], or log-probabilities, after the processors; the same array if there are none.

    All of them can be -infinity, if the processors forbid every token.

    >>> apply_processors(np.array([1.0, 3.0]), SamplingConfig(repetition_penalty=2.0), prompt_ids=[1])
    array([1. , 1.5])
    """
    if not config.processors:
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
    """`apply_processors`, or SettingError if it forbids every token."""
    left = apply_processors(logits, config, prompt_ids=prompt_ids, new_ids=new_ids, stop_token_ids=stop_token_ids)
    if left is not logits and left.max() == -math.inf:
        problem = f"all {len(left)} tokens are forbidden, at least one must be left"
        raise SettingError(f"{problem}; loosen {', '.join(config.processors)}")
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
