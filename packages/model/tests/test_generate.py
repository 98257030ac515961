"""The decode loop: what it yields, when it stops, and exactly which distribution it samples."""

import math
from typing import Any

import pytest
import torch
from gpt2_model import GPT2, generate
from gpt2_model.generate import choose, keep_top_k, keep_top_p
from torch import Tensor

PROMPT = [20, 30, 40]  # each of these is followed by a different likeliest token
HALVES = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)  # sums of these are exact


def ids(model: GPT2, prompt: list[int] | None = None, **options: Any) -> list[int]:
    return list(generate(model, PROMPT if prompt is None else prompt, **({"max_new_tokens": 8} | options)))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def drawn_from(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The probability vectors handed to torch for sampling."""
    vectors: list[Tensor] = []
    draw = torch.multinomial
    monkeypatch.setattr(torch, "multinomial", lambda p, *args, **named: vectors.append(p) or draw(p, *args, **named))
    return vectors


def test_greedy_takes_the_likeliest_token_after_the_whole_text_so_far(model: GPT2) -> None:
    text = list(PROMPT)
    for token in ids(model):
        assert token == int(model(torch.tensor([text]))[0][0, -1].argmax())
        text.append(token)
    assert len(text) == 3 + 8


def test_each_token_is_read_once(model: GPT2) -> None:
    read: list[list[int]] = []
    handle = model.register_forward_pre_hook(lambda module, args: read.append(args[0][0].tolist()))
    new = ids(model, max_new_tokens=4)
    handle.remove()
    assert read == [PROMPT, *([token] for token in new[:-1])]


def test_a_seed_repeats_its_text_and_another_does_not(model: GPT2) -> None:
    sample = {"temperature": 3.0}
    assert ids(model, generator=seeded(5), **sample) == ids(model, generator=seeded(5), **sample)
    assert len({tuple(ids(model, generator=seeded(seed), **sample)) for seed in range(8)}) > 1


def test_the_end_token_ends_the_text_and_is_not_yielded(model: GPT2) -> None:
    free = ids(model)
    end = free[3]
    assert ids(model, eos_token_id=end) == free[: free.index(end)]


def test_an_end_token_in_the_prompt_ends_nothing(model: GPT2) -> None:
    free = ids(model)
    end = next(token for token in range(50) if token not in free)
    assert len(ids(model, [end, *PROMPT], eos_token_id=end)) > 0


@pytest.mark.parametrize(("length", "room"), [(1, 16), (10, 7), (15, 2), (16, 1)])
def test_a_full_context_still_yields_one_token_which_is_not_read(model: GPT2, length: int, room: int) -> None:
    assert len(ids(model, [7] * length, max_new_tokens=99)) == room


def test_zero_new_tokens_yields_nothing(model: GPT2) -> None:
    assert ids(model, max_new_tokens=0) == []


def test_the_prompt_stays_the_callers(model: GPT2) -> None:
    prompt = list(PROMPT)
    ids(model, prompt)
    assert prompt == PROMPT


def test_the_callers_gradients_stay_on_between_tokens(model: GPT2) -> None:
    modes = [torch.is_grad_enabled() for _ in generate(model, PROMPT, max_new_tokens=3)]
    assert modes == [True] * 3


def test_top_k_keeps_the_k_likeliest() -> None:
    filtered = keep_top_k(HALVES.log(), 2).softmax(dim=-1)
    torch.testing.assert_close(filtered, torch.tensor([2 / 3, 1 / 3, 0, 0], dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("k", "tokens"), [(1, 1), (2, 2), (3, 4), (4, 4), (99, 4)])
def test_top_k_keeps_those_equal_to_the_last_and_never_more_than_there_are(k: int, tokens: int) -> None:
    assert int(keep_top_k(HALVES.log(), k).isfinite().sum()) == tokens


@pytest.mark.parametrize(
    ("p", "tokens"), [(1e-9, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.8, 3), (0.875, 3), (0.9, 4), (1.0, 4)]
)
def test_top_p_keeps_the_fewest_that_reach_p(p: float, tokens: int) -> None:
    probabilities = HALVES[torch.tensor([2, 0, 3, 1])]  # not in order
    logits = probabilities.log2() * math.log(2)
    assert int(keep_top_p(logits, p).isfinite().sum()) == tokens


def test_top_p_keeps_the_likeliest_where_they_stand() -> None:
    logits = torch.tensor([0.1, 0.6, 0.05, 0.25], dtype=torch.float64).log()
    filtered = keep_top_p(logits, 0.8).softmax(dim=-1)
    torch.testing.assert_close(filtered, torch.tensor([0, 12 / 17, 0, 5 / 17], dtype=torch.float64), rtol=0, atol=1e-15)


def test_temperature_comes_before_the_filters(drawn_from: list[Tensor]) -> None:
    logits = torch.tensor([0.6, 0.25, 0.1, 0.05], dtype=torch.float64).log()
    choose(logits, temperature=2.0, top_p=0.9, generator=seeded(0))
    roots = torch.tensor([0.6, 0.25, 0.1, 0.05], dtype=torch.float64).sqrt()  # 0.43, 0.28, 0.17, 0.12: all four
    torch.testing.assert_close(drawn_from[0], roots / roots.sum(), rtol=0, atol=1e-15)


def test_top_k_comes_before_top_p_which_sees_what_is_left(drawn_from: list[Tensor]) -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
    choose(logits, temperature=1.0, top_k=3, top_p=0.75, generator=seeded(0))  # of 0.44, 0.33, 0.22: two reach 0.75
    expected = torch.tensor([4 / 7, 3 / 7, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(drawn_from[0], expected, rtol=0, atol=1e-15)


def test_draws_follow_the_distribution() -> None:
    rng, draws = seeded(0), 4000
    counts = torch.zeros(4)
    for _ in range(draws):
        counts[choose(HALVES.log(), temperature=1.0, generator=rng)] += 1
    deviations = (counts - draws * HALVES).abs() / (draws * HALVES * (1 - HALVES)).sqrt()
    assert deviations.max() < 4


def test_temperature_zero_draws_nothing(drawn_from: list[Tensor]) -> None:
    assert choose(HALVES.flip(0).log(), temperature=0.0, top_k=1, top_p=0.1) == 3
    assert drawn_from == []


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
def test_the_narrowest_choice_is_the_greedy_one(model: GPT2, options: dict[str, float]) -> None:
    assert ids(model, generator=seeded(0), **({"temperature": 1.0} | options)) == ids(model)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "prompt has 0 tokens, the model reads 1 to 16"),
        ([1] * 17, {}, "prompt has 17 tokens, the model reads 1 to 16"),
        ([1, 50], {}, "token id 50 in the prompt; the vocabulary has ids 0 to 49"),
        ([-1], {}, "token id -1 in the prompt"),
        ([1], {"max_new_tokens": -1}, "max_new_tokens is -1"),
        ([1], {"temperature": -0.5}, "temperature is -0.5"),
        ([1], {"temperature": math.nan}, "temperature is nan"),
        ([1], {"temperature": math.inf}, "temperature is inf"),
        ([1], {"top_k": 0}, "top_k is 0"),
        ([1], {"top_p": 0.0}, "top_p is 0.0"),
        ([1], {"top_p": 1.5}, "top_p is 1.5"),
        ([1], {"top_p": math.nan}, "top_p is nan"),
    ],
)
def test_a_bad_argument_is_refused_in_the_call_itself(
    model: GPT2, prompt: list[int], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generate(model, prompt, **({"max_new_tokens": 5} | options))
