"""One definition of each setting: all that is derived from it agrees, and names are refused or understood."""

import inspect
from dataclasses import fields
from typing import get_type_hints

import click
import numpy as np
import pytest
from gpt2_runtime import GREEDY, GenerationConfig, Prompt, SamplingConfig, TextGenerator, generate
from gpt2_runtime.batch_file.line import NAMES as NAMES_OF_A_LINE
from gpt2_runtime.cli.batch import batch
from gpt2_runtime.cli.generate import generate as generate_command
from gpt2_runtime.errors import PromptError, SettingError
from gpt2_runtime.generation.config import NAMES, SETTINGS, IdSettings, Settings, resolve
from gpt2_runtime.generation.request import Request

# Of each setting a value that is not its default, and one out of range.
VALUES = {
    "max_new_tokens": (3, -1),
    "temperature": (0.5, -1),
    "top_k": (3, 0),
    "top_p": (0.5, 0),
    "min_p": (0.5, 2),
    "typical_p": (0.5, 2),
    "repetition_penalty": (1.5, 0),
    "frequency_penalty": (0.5, 1e10),
    "presence_penalty": (0.5, 1e10),
    "no_repeat_ngram_size": (2, 0),
    "logit_bias": (((7, -1.0),), {"x": 1}),
    "bad_words_ids": (((5, 6),), [5]),
    "min_new_tokens": (1, -1),
    "seed": (5, 2**128),
    "stop": (("x",), "x"),
    "stop_token_ids": (frozenset({5}), 5),
    "bad_words": (("x",), [""]),
    "overflow": ("slide", "cut"),
    "logprobs": (1, 101),
    "prompt_logprobs": (1, 101),
    "parse_special": (False, 0),
}


@pytest.fixture(scope="module")
def generator(folder):
    return TextGenerator.open(folder, threads=1)


def found(config, name):
    return getattr(config, name) if hasattr(config, name) else getattr(config.sampling, name)


def test_every_field_is_a_setting_and_has_its_values_here():
    names = {each.name for each in (*fields(GenerationConfig), *fields(SamplingConfig))} - {"sampling"}
    assert names == set(SETTINGS) == set(VALUES)


def test_what_type_checkers_read_is_what_the_configs_have():
    hints = get_type_hints(Settings)
    assert set(hints) == set(NAMES)
    types = {**get_type_hints(SamplingConfig), **get_type_hints(GenerationConfig)}
    assert {name: hints[name] for name in types} == types
    assert set(get_type_hints(IdSettings)) == set(NAMES) - {name for name, row in SETTINGS.items() if row.of_text}


def test_a_lines_names_and_the_commands_options_are_the_settings():
    assert set(NAMES_OF_A_LINE) - {"id", "prompt", "token_ids", "n"} == set(SETTINGS)
    for command in (generate_command, batch):
        options = {each.name: each for each in command.params if isinstance(each, click.Option)}
        assert set(options) >= set(SETTINGS)
        for name, row in SETTINGS.items():
            if (command, name) != (batch, "seed"):
                assert options[name].help.startswith(row.help)


@pytest.mark.parametrize("config", [SamplingConfig, GenerationConfig])
def test_the_documentation_of_a_config_has_each_setting(config):
    assert all(f"\n    {each.name}: " in inspect.getdoc(config) for each in fields(config))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_kept_by_its_name_and_refused_with_it(name):
    right, wrong = VALUES[name]
    assert found(GenerationConfig.of(**{name: right}), name) == right
    assert found(GenerationConfig.of(), name) == SETTINGS[name].default
    with pytest.raises(SettingError) as refused:
        GenerationConfig.of(**{name: wrong})
    assert (refused.value.parameter, refused.value.value) == (name, wrong)


def test_a_name_by_itself_stands_over_sampling_and_that_over_config():
    config = GenerationConfig.of(temperature=0.1, top_k=1, seed=1, max_new_tokens=1)
    sampling = SamplingConfig(temperature=0.2, top_k=2)
    assert resolve({"config": config}) == config
    made = resolve({"config": config, "sampling": sampling, "temperature": 0.3, "seed": 3})
    assert made == GenerationConfig(sampling=SamplingConfig(temperature=0.3, top_k=2), seed=3, max_new_tokens=1)


@pytest.mark.parametrize(("name", "value"), [("config", None), ("config", {"seed": 1}), ("sampling", None)])
def test_a_config_of_another_type_is_refused(name, value):
    with pytest.raises(SettingError) as refused:
        resolve({name: value})
    assert (refused.value.parameter, refused.value.value) == (name, value)


def test_what_a_caller_goes_on_to_change_is_copied():
    stop, ids = ["x"], {5}
    config = GenerationConfig(stop=stop, stop_token_ids=ids)
    stop.append("y"), ids.add(6)
    assert (config.stop, config.stop_token_ids) == (("x",), {5})


def test_all_spellings_are_the_same_settings(generator):
    flat = generator.complete("The dog", temperature=3.0, max_new_tokens=20, seed=5)
    sampling = SamplingConfig(temperature=3.0)
    for settings in (
        {"sampling": sampling, "max_new_tokens": 20, "seed": 5},
        {"config": GenerationConfig(sampling=sampling, max_new_tokens=20, seed=5)},
        {"config": GenerationConfig(seed=5), "temperature": 3.0, "max_new_tokens": 20},
    ):
        assert generator.complete("The dog", **settings).token_ids == flat.token_ids
    prompt = generator.tokenizer.encode("The dog")
    events = generate(generator.session, prompt, temperature=3.0, max_new_tokens=20, seed=5)
    assert tuple(event.id for event in events if hasattr(event, "id")) == flat.token_ids
    rng = np.random.Generator(np.random.PCG64(5))
    events = generate(generator.session, prompt, temperature=3.0, max_new_tokens=20, rng=rng)
    assert tuple(event.id for event in events if hasattr(event, "id")) == flat.token_ids


def test_a_search_is_greedy_unless_a_setting_says_otherwise(generator):
    settings = {"num_beams": 2, "max_new_tokens": 5}
    plain = generator.search("The dog", **settings)
    assert plain == generator.search("The dog", sampling=GREEDY, **settings)
    controlled = generator.search("The dog", no_repeat_ngram_size=1, **settings)
    sampling = SamplingConfig(temperature=0, no_repeat_ngram_size=1)
    assert controlled == generator.search("The dog", sampling=sampling, **settings)
    with pytest.raises(SettingError) as refused:
        generator.search("The dog", config=GenerationConfig(), **settings)
    assert refused.value.parameter == "temperature"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temprature": 0.5}, "unknown setting 'temprature'; did you mean 'temperature'?"),
        ({"max_tokens": 5}, "unknown setting 'max_tokens'; did you mean 'max_new_tokens'?"),
        ({"xyz": 5}, f"unknown setting 'xyz'; expected one of {', '.join(NAMES)}"),
    ],
)
def test_an_unknown_name_is_refused_with_the_one_that_was_meant(generator, settings, message):
    (name,) = settings
    for call in (
        lambda: generator.complete("To be", **settings),
        lambda: generator.stream("To be", **settings),
        lambda: generator.search("To be", num_beams=2, **settings),
        lambda: generator.start("To be", **settings),
        lambda: Prompt(prompt="To be", settings=settings),
        lambda: generate(generator.session, [5], **settings),
        lambda: GenerationConfig.of(**settings),
    ):
        with pytest.raises(SettingError) as refused:
            call()
        assert str(refused.value) == message
        assert (refused.value.parameter, refused.value.value) == (name, settings[name])


def test_a_name_of_a_megabyte_is_refused_at_once():
    with pytest.raises(SettingError, match="unknown setting"):
        resolve({"x" * 10**6: 1})


@pytest.mark.parametrize("name", [name for name, row in SETTINGS.items() if row.of_text])
def test_a_setting_of_text_is_refused_where_there_is_none(generator, name):
    value, _ = VALUES[name]
    for settings in ({name: value}, {"config": GenerationConfig(**{name: value})}):
        with pytest.raises(SettingError) as refused:
            generate(generator.session, [5], **settings)
        assert refused.value.parameter == name


def test_a_seed_beside_a_generator_of_numbers_is_refused(generator):
    with pytest.raises(SettingError) as refused:
        generate(generator.session, [5], seed=1, rng=np.random.default_rng())
    assert (refused.value.parameter, refused.value.value) == ("seed", 1)


def test_several_texts_in_place_of_one_point_to_complete_batch(generator):
    for call in (generator.complete, generator.stream, lambda prompt: generator.search(prompt, num_beams=2)):
        with pytest.raises(PromptError, match="use complete_batch for several") as refused:
            call(["To be", "or not"])
        assert (refused.value.parameter, refused.value.value) == ("prompt", ["To be", "or not"])


def test_a_request_is_a_config_and_its_prompt():
    config = GenerationConfig.of(temperature=0, stop_token_ids=[5], logprobs=2)
    request = Request.with_config([5, 6], config)
    assert request == Request(prompt_ids=[5, 6], sampling=GREEDY, stop_token_ids=[5], logprobs=2)
