"""Many prompts at once: each completion is that of the prompt alone, and one that is refused ends no other."""

from dataclasses import replace

import numpy as np
import pytest
from gpt2_runtime import GREEDY, SamplingConfig, TextGenerator
from gpt2_runtime.errors import SettingError, TokenIdError
from gpt2_runtime.text.batch import Prompt, complete, complete_batch

WILD = SamplingConfig(temperature=3.0)


@pytest.fixture(scope="module")
def generator(folder):
    return TextGenerator.open(folder, threads=1)


def untimed(completion):
    return replace(completion, timings=None)


def prompts(count):
    rng = np.random.default_rng(1)
    return [
        Prompt(
            prompt=rng.integers(0, 256, size=rng.integers(1, 50)).tolist()
            if number % 2
            else "The dog " * (number % 5 + 1),
            settings={
                "max_new_tokens": int(rng.integers(0, 40)),
                "sampling": WILD if number % 3 else GREEDY,
                "seed": number,
                "stop": ["e", "th"] if number % 4 else [],
                "overflow": "slide",
            },
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("rows", [1, 8])
def test_each_completion_is_that_of_the_prompt_alone(generator, rows):
    wanted = prompts(40)
    results = list(complete_batch(generator, wanted, rows=rows))
    assert sorted(result.index for result in results) == list(range(40))
    stopped = 0
    for result in results:
        (completion,) = result.completions
        asked = wanted[result.index]
        assert untimed(completion) == untimed(generator.complete(asked.prompt, **asked.settings))
        stopped += completion.finish_reason == "stop"
    assert 5 < stopped < 35


def test_prompts_are_requested_when_there_is_a_row_for_them(generator):
    asked = []

    def endless():
        number = 0
        while True:
            asked.append(number)
            yield Prompt(prompt=[5], settings={"max_new_tokens": 4, "stop_token_ids": (), "sampling": GREEDY})
            number += 1

    results = complete_batch(generator, endless(), rows=3)
    next(results)
    assert len(asked) == 3
    next(results), next(results), next(results)
    assert len(asked) == 6


def test_a_prompt_that_is_refused_is_a_result_and_the_others_go_on(generator):
    bad = [Prompt(prompt=[999]), Prompt(prompt="a", settings={"seed": -1}), Prompt(prompt="a", n=0)]
    good = Prompt(prompt="The dog", settings={"max_new_tokens": 3})
    results = {result.index: result for result in complete_batch(generator, [good, *bad, good])}
    assert [type(results[index].error) for index in range(5)] == [
        type(None),
        TokenIdError,
        SettingError,
        SettingError,
        type(None),
    ]
    assert all(len(results[index].completions) == 1 for index in (0, 4))


def test_settings_that_leave_no_token_are_one_error_for_all_continuations(generator):
    nothing = SamplingConfig(logit_bias=dict.fromkeys(range(300), float("-inf")))
    asked = [
        Prompt(prompt="a", settings={"sampling": nothing}, n=3),
        Prompt(prompt="a", settings={"max_new_tokens": 2, "stop_token_ids": ()}),
    ]
    results = list(complete_batch(generator, asked, rows=2))
    assert [(result.index, len(result.completions)) for result in results] == [(0, 0), (1, 1)]
    assert isinstance(results[0].error, SettingError)


@pytest.mark.parametrize("rows", [1, 8])
def test_continuations_count_their_seeds_up(generator, rows):
    settings = {"max_new_tokens": 12, "sampling": WILD, "seed": 7, "stop": ["e"]}
    found = complete(generator, "The dog", 4, settings, rows=rows)
    expected = [generator.complete("The dog", **{**settings, "seed": seed}) for seed in range(7, 11)]
    assert list(map(untimed, found)) == list(map(untimed, expected))
    with pytest.raises(SettingError, match="n is 0, must be an integer from 1 to 1024"):
        complete(generator, "The dog", 0, settings)


def test_bad_words_never_come_as_they_are_or_after_a_space(generator):
    settings = {"max_new_tokens": 30, "sampling": GREEDY, "stop_token_ids": ()}
    free = generator.complete("The dog", **settings)
    word = generator.tokenizer.decode(free.token_ids[2:3])  # one letter
    bound = generator.complete("The dog", bad_words=[word], **settings)
    assert free.token_ids[2] not in bound.token_ids
    for wrong, complaint in (("word", r'write \["word"\]'), ([""], "at least one character"), ([3], "bad word is 3")):
        with pytest.raises(SettingError, match=complaint):
            generator.complete("The dog", bad_words=wrong, **settings)


def test_what_is_no_prompt_is_an_error_of_its_own(generator):
    good = Prompt(prompt="To be", settings={"max_new_tokens": 2})
    bad, answered = sorted(complete_batch(generator, ["To be", good]), key=lambda result: result.index)
    assert str(bad.error).startswith("prompt is 'To be', must be a Prompt")
    assert answered.error is None
    with pytest.raises(SettingError, match="prompts is 5, must be several Prompts"):
        complete_batch(generator, 5)


@pytest.mark.parametrize(
    ("settings", "complaint"), [({"temprature": 1}, "unknown setting 'temprature'"), (5, "settings is 5")]
)
def test_settings_that_are_none_are_refused(settings, complaint):
    with pytest.raises(SettingError, match=complaint):
        Prompt(prompt="To be", settings=settings)
