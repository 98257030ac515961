"""Each control, each filter and each pair of them, against transformers' own processors and its `generate`."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from control_mutants import MUTANTS
from gpt2_runtime import LookupConfig, SamplingConfig, Session, Token
from gpt2_runtime import generate as runtime_generate
from gpt2_runtime.sampling.filters import probabilities
from gpt2_runtime.sampling.sampler import candidates
from transformers import GPT2LMHeadModel
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

torch.set_num_threads(1)  # as in `backends.py`

Settings = dict[str, Any]

# Two values of each, so that no result is right by chance.
EACH: list[Settings] = [
    {"logit_bias": {3: 2.5, 11: -4.0, 7: float("-inf")}},
    {"logit_bias": {token: 0.25 * (token % 5) - 0.5 for token in range(60)}},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.6},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 3},
    {"bad_words_ids": ((5,), (1, 2), (3, 1, 2), (2, 0, 1, 3))},
    {"min_new_tokens": 6},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_k": 12},
    {"top_p": 0.8},
    {"min_p": 0.05},
    {"typical_p": 0.7},
    {"typical_p": 0.2},
]
OURS: list[Settings] = [{"frequency_penalty": 0.7}, {"presence_penalty": 1.1}, {"frequency_penalty": -0.4}]


def pairs(settings: list[Settings]) -> list[Settings]:
    """All pairs with different names."""
    return [one | other for one, other in combinations(settings, 2) if not one.keys() & other.keys()]


ALL: list[Settings] = [
    {
        "logit_bias": {3: 2.5, 11: -4.0},
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": ((5,), (1, 2)),
        "min_new_tokens": 4,
        "temperature": 1.3,
        "top_k": 60,
        "top_p": 0.95,
        "min_p": 0.01,
        "typical_p": 0.9,
    }
]


def named(settings: Settings) -> str:
    return " ".join(f"{name}={value if isinstance(value, int | float) else '...'}" for name, value in settings.items())


def by_transformers(settings: Settings) -> Settings:
    """The arguments of `generate`: the same names, except the bias, which it has for sequences."""
    arguments = dict(settings)
    if bias := arguments.pop("logit_bias", None):
        arguments["sequence_bias"] = [[[token], float(value)] for token, value in bias.items()]
    if words := arguments.get("bad_words_ids"):
        arguments["bad_words_ids"] = [list(word) for word in words]
    return arguments


class CountPenalties(LogitsProcessor):  # type: ignore[misc]
    """OpenAI's frequency and presence penalties on the tokens after the prompt, which transformers lacks."""

    def __init__(self, prompt_length: int, frequency: float, presence: float) -> None:
        self.prompt_length, self.frequency, self.presence = prompt_length, frequency, presence

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        counts = torch.stack([row.bincount(minlength=scores.shape[1]) for row in input_ids[:, self.prompt_length :]])
        return scores - self.frequency * counts - self.presence * (counts > 0)


def processors(settings: Settings, prompt_length: int, stops: list[int]) -> LogitsProcessorList:
    """transformers' processors for these settings, in the order of its `generate`."""
    arguments = by_transformers(settings)
    counted = arguments.get("frequency_penalty", 0.0), arguments.get("presence_penalty", 0.0)
    made: dict[str, Callable[[Any], LogitsProcessor]] = {
        "sequence_bias": SequenceBiasLogitsProcessor,
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "frequency_penalty": lambda _: CountPenalties(prompt_length, *counted),
        "presence_penalty": lambda _: CountPenalties(prompt_length, *counted),
        "no_repeat_ngram_size": NoRepeatNGramLogitsProcessor,
        "bad_words_ids": lambda words: NoBadWordsLogitsProcessor(words, stops),
        "min_new_tokens": lambda count: MinNewTokensLengthLogitsProcessor(prompt_length, count, stops),
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
        "typical_p": TypicalLogitsWarper,
    }
    if "frequency_penalty" in arguments:
        arguments.pop("presence_penalty", None)
    return LogitsProcessorList([make(arguments[name]) for name, make in made.items() if name in arguments])


def distribution(
    logits: np.ndarray[Any, Any], settings: Settings, prompt: list[int], new: list[int], stops: list[int]
) -> np.ndarray[Any, Any]:
    """The runtime's probabilities of the V tokens."""
    left = candidates(logits, SamplingConfig(**settings), prompt_ids=prompt, new_ids=new, stop_token_ids=stops)
    full = np.zeros(len(logits))
    full[left.ids] = probabilities(left)
    return full


def assert_same_distribution(settings: Settings, size: int, seed: int) -> None:
    """Compares on random logits, after a text of few different tokens with repeated runs and started words."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, size).astype(np.float32)
    prompt, new = rng.integers(0, 4, 40).tolist(), rng.integers(0, 8, 5).tolist()
    prompt[:4] = 8, 9, 10, 11  # none of these is new
    new += [3, 1]  # bad words of every length are about to be completed
    stops = [int(logits.argmax()), size - 1]
    text = torch.tensor([prompt + new])
    scores = processors(settings, len(prompt), stops)(text, torch.from_numpy(logits.copy())[None])
    expected = scores.softmax(dim=-1)[0].numpy()
    np.testing.assert_allclose(distribution(logits, settings, prompt, new, stops), expected, atol=1e-5)


@pytest.mark.parametrize("settings", [*EACH, *OURS, *pairs(EACH + OURS), *(more | ALL[0] for more in OURS)], ids=named)
def test_probabilities_after_random_logits_are_transformers(settings: Settings) -> None:
    for seed in range(3):
        assert_same_distribution(settings, 97, seed)


@pytest.mark.parametrize("settings", [*EACH, *OURS, *ALL], ids=named)
def test_probabilities_over_a_whole_vocabulary_are_transformers(settings: Settings) -> None:
    for seed in range(3):
        assert_same_distribution(settings, 50257, seed)


class Model(NamedTuple):
    """A model in transformers and in the runtime, and its greedy text after a prompt."""

    network: GPT2LMHeadModel
    session: Session
    prompt: list[int]
    text: list[int]

    @property
    def stop(self) -> int:
        """A token that occurs early in the text, but not first."""
        return next(token for token in self.text[3:] if token not in self.text[:3])


NEW = 40


@pytest.fixture(scope="module")
def model(demo_folder: Path, made: Callable[[str], Any]) -> Callable[[str], Model]:
    """Opens a model by name."""

    def opened(folder: Path, prompt: list[int]) -> Model:
        network = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
        text = greedy_by_transformers(network, prompt, {}, None)
        return Model(network, Session.open(folder, threads=1), prompt, text)

    rng = np.random.default_rng(0)
    models = {
        "random": opened(made("as published").folder, [5, 17, 80]),
        "demo": opened(demo_folder, rng.integers(0, 1500, 12).tolist()),
    }
    return models.__getitem__


def arguments_of(network: GPT2LMHeadModel, prompt: list[int], settings: Settings, stop: int | None) -> Settings:
    network.generation_config.eos_token_id = stop
    ids = torch.tensor([prompt])
    return {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, "inputs": ids, **by_transformers(settings)}


def greedy_by_transformers(
    network: GPT2LMHeadModel, prompt: list[int], settings: Settings, stop: int | None
) -> list[int]:
    """The tokens from its `generate`, without the stop token."""
    arguments = arguments_of(network, prompt, settings, stop)
    new: list[int] = network.generate(**arguments, do_sample=False, max_new_tokens=NEW)[0, len(prompt) :].tolist()
    return new[:-1] if new[-1] == stop else new


def greedy_by_the_runtime(
    model: Model, settings: Settings, stop: int | None, lookup: LookupConfig | None = None
) -> list[int]:
    events = runtime_generate(
        model.session,
        model.prompt,
        max_new_tokens=NEW,
        sampling=SamplingConfig(temperature=0, **settings),
        stop_token_ids=() if stop is None else (stop,),
        lookup=lookup,
    )
    return [event.id for event in events if isinstance(event, Token)]


def test_the_processors_are_in_the_order_of_transformers(model: Callable[[str], Model]) -> None:
    """All of them, as its `generate` makes them; it lacks the count penalties."""
    here, processors_seen = model("random"), LogitsProcessorList()

    def keep(model: Any, input_ids: torch.Tensor, logits_processor: LogitsProcessorList, **rest: Any) -> torch.Tensor:
        processors_seen.extend(logits_processor)
        return input_ids

    arguments = arguments_of(here.network, here.prompt, ALL[0], here.stop)
    here.network.generate(**arguments, do_sample=True, max_new_tokens=8, custom_generate=keep)
    expected = processors(ALL[0], len(here.prompt), [here.stop])
    assert len(expected) == len(ALL[0])
    # It also makes a min_length from min_new_tokens, which repeats the same.
    types = [type(each) for each in processors_seen if not isinstance(each, MinLengthLogitsProcessor)]
    assert types == [type(each) for each in expected]


def words_of(text: list[int]) -> Settings:
    """Bad words that a greedy text would contain: a token, and runs of two and three."""
    return {"bad_words_ids": (tuple(text[1:2]), tuple(text[4:6]), tuple(text[9:12]))}


def biased(text: list[int]) -> Settings:
    return {"logit_bias": {text[2]: -3.5, text[0]: 1.5, text[7]: float("-inf")}}


GREEDY: dict[str, Callable[[list[int]], Settings]] = {
    "repetition_penalty": lambda _: {"repetition_penalty": 1.2},
    "repetition_penalty below 1": lambda _: {"repetition_penalty": 0.8},
    "no_repeat_ngram_size 1": lambda _: {"no_repeat_ngram_size": 1},
    "no_repeat_ngram_size 2": lambda _: {"no_repeat_ngram_size": 2},
    "no_repeat_ngram_size 3": lambda _: {"no_repeat_ngram_size": 3},
    "bad_words_ids": words_of,
    "logit_bias": biased,
    "min_new_tokens": lambda _: {"min_new_tokens": 20},
}


@pytest.mark.parametrize(
    "names", [*((name,) for name in GREEDY), *combinations(GREEDY, 2), tuple(GREEDY)], ids=", ".join
)
@pytest.mark.parametrize("name", ["random", "demo"])
def test_greedy_texts_are_transformers(name: str, names: tuple[str, ...], model: Callable[[str], Model]) -> None:
    here = model(name)
    settings: Settings = {}
    for each in names:
        settings |= GREEDY[each](here.text)
    stop = here.stop if "min_new_tokens" in settings else None
    expected = greedy_by_transformers(here.network, here.prompt, settings, stop)
    assert greedy_by_the_runtime(here, settings, stop) == expected
    assert greedy_by_the_runtime(here, settings, stop, LookupConfig(min_ngram=1)) == expected


@pytest.mark.parametrize("name", ["random", "demo"])
def test_each_of_these_settings_changes_the_greedy_text(name: str, model: Callable[[str], Model]) -> None:
    """So that the comparison is meaningful."""
    here = model(name)
    for each in GREEDY:
        stop = here.stop if each == "min_new_tokens" else None
        plain = greedy_by_the_runtime(here, {}, stop)
        assert greedy_by_the_runtime(here, GREEDY[each](here.text), stop) != plain, each


@pytest.mark.parametrize("settings", [*EACH, *pairs(EACH)[::4], *ALL], ids=named)
@pytest.mark.parametrize("name", ["random", "demo"])
def test_probabilities_in_a_sampled_text_are_transformers(
    name: str, settings: Settings, model: Callable[[str], Model]
) -> None:
    """transformers samples; each of its steps has the logits and the result of its processors in order."""
    here = model(name)
    arguments = arguments_of(here.network, here.prompt, {"top_k": 0, **settings}, here.stop)
    torch.manual_seed(1)
    output = here.network.generate(
        **arguments,
        do_sample=True,
        max_new_tokens=8,
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
    )
    new = output.sequences[0, len(here.prompt) :].tolist()
    for at, (logits, scores) in enumerate(zip(output.logits, output.scores, strict=True)):
        probabilities = distribution(logits[0].numpy(), settings, here.prompt, new[:at], [here.stop])
        np.testing.assert_allclose(probabilities, scores[0].softmax(dim=-1).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_in_the_sampler_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, make = MUTANTS[name]
    assert_same_distribution(settings, 97, seed=0)
    make(monkeypatch)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same_distribution(settings, 97, seed=0)


@pytest.mark.parametrize("name", ["random", "demo"])
def test_a_bad_word_that_is_a_stop_token_is_forbidden_although_transformers_ignores_it(
    name: str, model: Callable[[str], Model]
) -> None:
    here = model(name)
    settings: Settings = {"bad_words_ids": ((here.stop,),)}
    until = here.text[: here.text.index(here.stop)]
    assert greedy_by_transformers(here.network, here.prompt, settings, here.stop) == until
    written = greedy_by_the_runtime(here, settings, here.stop)
    assert len(written) == NEW
    assert here.stop not in written
