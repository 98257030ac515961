"""Known bugs in choosing a token, applied to a correct sampler; each with the settings that expose it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from gpt2_runtime import SamplingConfig
from gpt2_runtime.sampling import sampler as sampling
from gpt2_runtime.sampling.filters import Candidates, keep_min_p, keep_top_k, keep_top_p, keep_typical_p, probabilities
from sweep import Array

Make = Callable[[pytest.MonkeyPatch], None]


class Mutant(NamedTuple):
    settings: dict[str, Any]
    make: Make


MUTANTS: dict[str, Mutant] = {}


def mistake(name: str, **settings: Any) -> Callable[[Make], Make]:
    def enter(make: Make) -> Make:
        MUTANTS[name] = Mutant(settings, make)
        return make

    return enter


def instead_of(name: str, wrong: Callable[..., Any]) -> Make:
    """Replaces the sampler's function of this name."""
    return lambda patch: patch.setattr(sampling, name, wrong)


def with_text(change: Callable[[list[int], list[int]], tuple[list[int], list[int]]]) -> Make:
    """Passes other prompt and new tokens to the controls."""
    right = sampling.apply_processors

    def wrong(logits: Array, config: SamplingConfig, *, prompt_ids: Any, new_ids: Any, stop_token_ids: Any) -> Array:
        prompt, new = change(list(prompt_ids), list(new_ids))
        return right(logits, config, prompt_ids=prompt, new_ids=new, stop_token_ids=stop_token_ids)

    return instead_of("apply_processors", wrong)


def all_new(prompt: list[int], new: list[int]) -> tuple[list[int], list[int]]:
    return [], prompt + new


def no_prompt(prompt: list[int], new: list[int]) -> tuple[list[int], list[int]]:
    return [], new


mistake("a frequency penalty that counts the prompt", frequency_penalty=0.75)(with_text(all_new))
mistake("a presence penalty that counts the prompt", presence_penalty=0.5)(with_text(all_new))
mistake("min_new_tokens that counts the prompt", min_new_tokens=9)(with_text(all_new))
mistake("a repetition penalty that ignores the prompt", repetition_penalty=1.5)(with_text(no_prompt))
mistake("n-grams of the new tokens alone", no_repeat_ngram_size=3)(with_text(no_prompt))


@mistake("a repetition penalty that divides negative logits", repetition_penalty=1.5)
def divides(patch: pytest.MonkeyPatch) -> None:
    def wrong(logits: Array, text: Array, penalty: float) -> None:
        logits[text] = logits[text] / penalty

    patch.setattr(sampling, "penalise_repetition", wrong)


@mistake("a repetition penalty for each occurrence of a token", repetition_penalty=1.5)
def again_and_again(patch: pytest.MonkeyPatch) -> None:
    right = sampling.penalise_repetition

    def wrong(logits: Array, text: Array, penalty: float) -> None:
        for place in range(len(text)):
            right(logits, text[place : place + 1], penalty)

    patch.setattr(sampling, "penalise_repetition", wrong)


@mistake("a presence penalty for each occurrence of a token", presence_penalty=0.5)
def presence_by_count(patch: pytest.MonkeyPatch) -> None:
    right = sampling.penalise_counts
    patch.setattr(sampling, "penalise_counts", lambda logits, new, f, p: right(logits, new, f + p, 0))


@mistake("a bias that no penalty sees", logit_bias={1: 3.0, 2: -2.0}, repetition_penalty=1.5)
def late_bias(patch: pytest.MonkeyPatch) -> None:
    bias, penalise = sampling.add_bias, sampling.penalise_repetition
    biases: list[Any] = []
    patch.setattr(sampling, "add_bias", lambda logits, ids, values: biases.append((ids, values)))

    def wrong(logits: Array, text: Array, penalty: float) -> None:
        penalise(logits, text, penalty)
        bias(logits, *biases[-1])

    patch.setattr(sampling, "penalise_repetition", wrong)


@mistake("a bias that is subtracted", logit_bias={2: 1.5, 40: -2.0})
def subtracted(patch: pytest.MonkeyPatch) -> None:
    right = sampling.add_bias
    patch.setattr(sampling, "add_bias", lambda logits, ids, bias: right(logits, ids, -bias))


@mistake("n-grams of the last tokens alone", no_repeat_ngram_size=2)
def last_ngrams(patch: pytest.MonkeyPatch) -> None:
    right = sampling.forbid_repeated_ngrams
    patch.setattr(sampling, "forbid_repeated_ngrams", lambda logits, text, size: right(logits, text[-10:], size))


@mistake("n-grams that are one too short", no_repeat_ngram_size=3)
def short_ngrams(patch: pytest.MonkeyPatch) -> None:
    right = sampling.forbid_repeated_ngrams
    patch.setattr(sampling, "forbid_repeated_ngrams", lambda logits, text, size: right(logits, text, size - 1))


@mistake("a bad word's last token forbidden everywhere", bad_words_ids=[[1, 2], [90, 60]])
def last_tokens(patch: pytest.MonkeyPatch) -> None:
    def wrong(logits: Array, text: Array, words: Any) -> None:
        for _, lasts in words:
            logits[lasts] = -np.inf

    patch.setattr(sampling, "forbid_words", wrong)


@mistake("stop tokens that are always allowed", min_new_tokens=9)
def never_forbidden(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sampling, "forbid", lambda logits, ids: None)


@mistake("min-p as a probability, not as a share of the likeliest's", min_p=0.02)
def absolute(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sampling, "keep_min_p", lambda left, p: left.only(probabilities(left) >= p))


@mistake("typical-p of the least surprising tokens", typical_p=0.5)
def least_surprising(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sampling, "keep_typical_p", keep_top_p)


def filtered(*order: str) -> Make:
    """Applies the filters in another order."""

    def wrong(tempered: Candidates, config: SamplingConfig) -> Candidates:
        left = Candidates(ids=tempered.ids, logits=tempered.logits, temperature=1.0)
        for name in order:
            if name == "temperature":
                left = Candidates(ids=left.ids, logits=left.logits, temperature=config.temperature)
            else:
                left = FILTERS[name](left, getattr(config, name))
        return left

    return instead_of("_filtered", wrong)


FILTERS: dict[str, Callable[[Candidates, Any], Candidates]] = {
    "top_k": keep_top_k,
    "top_p": keep_top_p,
    "min_p": keep_min_p,
    "typical_p": keep_typical_p,
}
mistake("temperature after top-p", temperature=2.0, top_p=0.8)(filtered("top_p", "temperature"))
mistake("top-p before top-k", top_k=12, top_p=0.8)(filtered("top_p", "top_k"))
mistake("min-p before top-p", top_p=0.8, min_p=0.2)(filtered("min_p", "top_p"))
mistake("typical-p before min-p", min_p=0.1, typical_p=0.6)(filtered("typical_p", "min_p"))
