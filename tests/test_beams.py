"""Beam search gives transformers' texts and scores; with a known bug it does not."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import beam_mutants
import numpy as np
import pytest
import torch
from gpt2_runtime import GREEDY, Beam, SamplingConfig, Session, beam_search
from tolerances import atol
from transformers import GPT2LMHeadModel

torch.set_num_threads(1)  # these networks are too small to gain from a second thread

Search = Callable[..., tuple[Beam, ...]]
TOKENS = 16
PENALTIES = (-1.0, 0.0, 0.6, 1.0, 2.0)
EARLY = (False, True, "never")


# transformers' names and the runtime's.
PROCESSORS = {
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "bad_words_ids": "bad_words_ids",
    "min_new_tokens": "min_new_tokens",
    "sequence_bias": "logit_bias",
}
# transformers' values of settings that can be recognised by value.
LISTED: dict[str, Callable[[Any], Any]] = {"bad_words_ids": lambda words: list(map(list, words)), "sequence_bias": dict}


class Pair(NamedTuple):
    """One model in transformers and in the runtime."""

    reference: GPT2LMHeadModel
    session: Session


def sampling(settings: dict[str, Any]) -> SamplingConfig:
    """The runtime's controls for transformers' settings."""
    controls = {PROCESSORS[name]: value for name, value in settings.items() if name in PROCESSORS}
    if "logit_bias" in controls:
        controls["logit_bias"] = {id_: bias for (id_,), bias in controls["logit_bias"]}
    return replace(GREEDY, **controls)


@cache  # for both graphs and all bugs
def by_transformers(
    reference: GPT2LMHeadModel, prompt: tuple[int, ...], stops: tuple[int, ...], **settings: Any
) -> list[tuple[tuple[int, ...], float]]:
    """Each text with its stop token, and its score."""
    ids = torch.tensor([prompt])
    reference.generation_config.eos_token_id = list(stops) or None
    listed = {name: listed(settings[name]) for name, listed in LISTED.items() if name in settings}
    output = reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        pad_token_id=reference.config.vocab_size - 1,
        return_dict_in_generate=True,
        output_scores=True,
        **settings | listed,
    )
    texts = []
    scores = output.sequences_scores.tolist() if settings["num_beams"] > 1 else [None]  # greedy decoding has none
    for text, score in zip(output.sequences[:, len(prompt) :].tolist(), scores, strict=True):
        end = next((place for place, token in enumerate(text) if token in stops), len(text))
        texts.append((tuple(text[: end + 1]), score))
    return texts


def whole(beam: Beam) -> tuple[int, ...]:
    """A text with its stop token, as transformers returns it."""
    return beam.token_ids if beam.stop_token_id is None else (*beam.token_ids, beam.stop_token_id)


def assert_same_texts(
    pair: Pair, prompt: Sequence[int], stops: Collection[int], search: Search, **settings: Any
) -> None:
    """The check: the same texts in the same order, equally likely."""
    expected = by_transformers(pair.reference, tuple(prompt), tuple(stops), **settings)
    ours = {name: value for name, value in settings.items() if name not in PROCESSORS}
    beams = search(pair.session, prompt, stop_token_ids=stops, sampling=sampling(settings), **ours)
    assert [beam.token_ids for beam in beams] == [text[:-1] if text[-1] in stops else text for text, _ in expected], (
        settings
    )
    for beam, (text, score) in zip(beams, expected, strict=True):
        assert beam.finish_reason == ("stop" if text[-1] in stops else "length")
        length = len(text) ** settings["length_penalty"]  # compared as log-probabilities of the text
        assert abs(beam.score - score) * length <= atol("beams", "onnxruntime cpu", "float32"), settings


def frequent(session: Session, prompts: Sequence[Sequence[int]], count: int) -> list[int]:
    """The most frequent tokens of beams: as stop tokens they end many texts."""
    written = Counter(
        token
        for prompt in prompts
        for beam in beam_search(
            session, prompt, num_beams=5, num_return_sequences=5, max_new_tokens=TOKENS, stop_token_ids=()
        )
        for token in beam.token_ids
    )
    return [token for token, _ in written.most_common(count)]


def climb(pair: Pair, search: Search, beams: Sequence[int] = (2, 3, 4, 5)) -> None:
    """Runs all settings, each on its own prompt."""
    rng = np.random.default_rng(0)
    vocab_size = pair.reference.config.vocab_size
    prompts = [rng.integers(vocab_size - 1, size=4).tolist() for _ in range(40)]
    stops = frequent(pair.session, prompts[:5], 4)
    cases = product(beams, PENALTIES, EARLY, (stops[:1], stops, []))
    for number, (num_beams, length_penalty, early_stopping, ending) in enumerate(cases):
        assert_same_texts(
            pair,
            prompts[number % len(prompts)],
            ending,
            search,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            max_new_tokens=TOKENS,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
        )


@pytest.fixture(scope="module")
def random_model(made: Callable[[str], Any]) -> Callable[[str], Pair]:
    source, folder = made("as published")
    reference = GPT2LMHeadModel.from_pretrained(source, attn_implementation="eager").eval()
    return lambda graph: Pair(reference, Session.open(folder, threads=1, graph=graph))


@pytest.fixture(scope="module")
def demo(demo_folder: Path) -> Callable[[str], Pair]:
    reference = GPT2LMHeadModel.from_pretrained(demo_folder).eval()
    return lambda graph: Pair(reference, Session.open(demo_folder, threads=1, graph=graph))


@pytest.mark.parametrize("graph", ["serving", "portable"])
def test_a_random_model_writes_the_same_texts(graph: str, random_model: Callable[[str], Pair]) -> None:
    climb(random_model(graph), beam_search)


@pytest.mark.parametrize("graph", ["serving", "portable"])
def test_the_demo_writes_the_same_texts(graph: str, demo: Callable[[str], Pair]) -> None:
    climb(demo(graph), beam_search, beams=(4,))


def controls_of(stops: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Each control alone, then all together; `stops` are frequent tokens."""
    words = ((stops[1],), (stops[2], stops[3]), (stops[0], stops[2]))
    bias = (((stops[0],), 1.5), ((stops[1],), -2.0), ((stops[2],), 4.0))
    controls: dict[str, tuple[Any, ...]] = {
        "repetition_penalty": (1.4, 0.8),
        "no_repeat_ngram_size": (1, 2),
        "bad_words_ids": (words,),
        "min_new_tokens": (7,),
        "sequence_bias": (bias,),
    }
    for name, values in controls.items():
        yield from ({name: value} for value in values)
    yield {name: values[-1] for name, values in controls.items()}


def climb_with_controls(pair: Pair, search: Search) -> None:
    """Runs every control on texts that end often and on texts that never end."""
    rng = np.random.default_rng(2)
    prompts = [rng.integers(pair.reference.config.vocab_size - 1, size=9).tolist() for _ in range(3)]
    stops = frequent(pair.session, prompts, 4)
    settings = {"num_return_sequences": 3, "max_new_tokens": TOKENS, "length_penalty": 1.0}
    for controls in controls_of(stops):
        for prompt, ending, num_beams in product(prompts, (stops[:1], []), (3, 5)):
            assert_same_texts(pair, prompt, ending, search, num_beams=num_beams, **settings, **controls)


@pytest.mark.parametrize("model", ["random_model", "demo"])
def test_controls_change_the_texts_as_in_transformers(model: str, request: pytest.FixtureRequest) -> None:
    climb_with_controls(request.getfixturevalue(model)("serving"), beam_search)


def test_one_beam_is_greedy_decoding_in_transformers_too(random_model: Callable[[str], Pair]) -> None:
    reference, session = random_model("serving")
    stops = frequent(session, [[5, 17, 80]], 4)
    for controls in ({}, *controls_of(stops)):
        for prompt in ([5, 17, 80], [1], [7, 7, 7, 7]):
            settings = {"num_beams": 1, "max_new_tokens": TOKENS} | controls
            expected = by_transformers(reference, tuple(prompt), tuple(stops[:1]), **settings)
            ours = beam_search(
                session,
                prompt,
                num_beams=1,
                max_new_tokens=TOKENS,
                stop_token_ids=stops[:1],
                sampling=sampling(controls),
            )
            assert [whole(beam) for beam in ours] == [text for text, _ in expected]


def test_fewer_texts_are_the_best_of_them(random_model: Callable[[str], Pair]) -> None:
    pair = random_model("serving")
    stops = frequent(pair.session, [[5, 17, 80]], 1)
    for num_return_sequences in (1, 2, 3, 4):
        settings = {"num_beams": 4, "num_return_sequences": num_return_sequences, "max_new_tokens": TOKENS}
        assert_same_texts(pair, [5, 17, 80], stops, beam_search, **settings, length_penalty=1.0)


@pytest.mark.parametrize("early_stopping", EARLY)
def test_a_search_at_the_end_of_the_context_equals_one_with_that_token_limit(
    early_stopping: Any, random_model: Callable[[str], Pair]
) -> None:
    pair = random_model("serving")
    limit = pair.session.bundle.architecture.n_positions
    prompt = np.random.default_rng(1).integers(96, size=limit - 9).tolist()
    stops = frequent(pair.session, [prompt[:4]], 3)

    def as_far_as_it_goes(*args: Any, **settings: Any) -> tuple[Beam, ...]:
        return beam_search(*args, **settings | {"max_new_tokens": 999})

    settings = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 1.0, "early_stopping": early_stopping}
    assert_same_texts(pair, prompt, stops, as_far_as_it_goes, max_new_tokens=10, **settings)


@pytest.mark.parametrize("name", beam_mutants.MUTANTS)
def test_a_mistake_in_the_search_is_caught(name: str, random_model: Callable[[str], Pair]) -> None:
    search = beam_mutants.mistaken(beam_mutants.MUTANTS[name]).beam_search
    with pytest.raises(AssertionError):
        climb(random_model("serving"), search)


@pytest.mark.parametrize("name", beam_mutants.OF_CONTROLS)
def test_a_mistake_in_the_use_of_controls_is_caught(name: str, random_model: Callable[[str], Pair]) -> None:
    search = beam_mutants.mistaken(beam_mutants.OF_CONTROLS[name]).beam_search
    with pytest.raises(AssertionError):
        climb_with_controls(random_model("serving"), search)
