"""A line of a batch's file: what it says, what it may not say, and what makes it another question."""

import json
from contextlib import suppress

import pytest
from gpt2_runtime import GREEDY, GenerationConfig, SamplingConfig
from gpt2_runtime.batch_file.line import NAMES, Defaults, read
from gpt2_runtime.cli import options
from gpt2_runtime.cli.batch import OF_THE_COMMAND, batch
from gpt2_runtime.errors import JobError, SettingError


def line(number=1, defaults=None, **document):
    return read(json.dumps({"prompt": "a", **document}).encode(), number, defaults or Defaults())


def test_a_line_says_a_prompt_and_settings_by_their_names():
    given = {"temperature": 0.5, "logit_bias": {"7": -1}, "stop": ["x"], "max_new_tokens": 3, "seed": 4, "logprobs": 2}
    job = line(id="a", **given, n=2)
    assert (job.id, job.key, job.prompt.prompt, job.prompt.n) == ("a", '"a"', "a", 2)
    settings = dict(job.prompt.settings)
    assert settings.pop("sampling") == SamplingConfig(temperature=0.5, logit_bias={7: -1})
    assert settings == {"stop": ["x"], "max_new_tokens": 3, "seed": 4, "logprobs": 2}


def test_what_a_line_does_not_say_is_the_defaults():
    defaults = Defaults(settings={"sampling": SamplingConfig(temperature=0, top_k=3), "max_new_tokens": 9}, n=3)
    job = line(temperature=2.0, defaults=defaults)
    assert job.prompt.settings["sampling"] == SamplingConfig(temperature=2.0, top_k=3)
    assert (job.prompt.settings["max_new_tokens"], job.prompt.n) == (9, 3)
    assert line(defaults=Defaults(settings={"sampling": GREEDY})).prompt.settings["sampling"] == GREEDY


def test_a_line_without_an_id_is_called_by_its_number_and_has_a_seed_of_its_own():
    assert [line(number).id for number in (1, 7)] == [1, 7]
    seeds = {line(number, Defaults(seed=seed)).prompt.settings["seed"] for number in range(50) for seed in (0, 1)}
    assert len(seeds) == 100
    assert line(3).prompt.settings["seed"] == line(3).prompt.settings["seed"]


def test_an_id_that_is_a_number_is_not_the_text_of_it():
    assert line(id=1).key != line(id="1").key


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"not", "is not readable JSON"),
        (b"[1]", 'is an array, must be an object such as {"prompt": "To be"}'),
        (b'{"prompt": "\xff"}', "is not UTF-8 at byte 12"),
        (b"[" * 100_000, "nested too deep; no setting"),
        (b"null", "is null, must be an object"),
        (b"{", "is not readable JSON: Expecting property name"),
        (
            b'{"seed": ' + b"9" * 100_000 + b"}",
            "has an integer of more than 4,300 digits, too long for any setting; shorten it",
        ),
        (b'{"id": 1}', "must have either prompt or token_ids"),
        (b'{"prompt": "a", "token_ids": [1]}', "must have either prompt or token_ids"),
        (b'{"prompt": 5}', "prompt is 5, must be a string"),
        (b'{"prompt": [true]}', r"prompt is \[true\], must be a string"),
        (b'{"token_ids": "1,2"}', "token_ids are not a list of integers"),
        (b'{"token_ids": [1, true]}', "token_ids are not a list of integers"),
        (b'{"prompt": "a", "id": 1.5}', "id is 1.5, must be a string or an integer"),
        (b'{"prompt": "a", "id": null}', "id is null, must be a string or an integer"),
        (b'{"prompt": "a", "parse_special": "no"}', 'parse_special is "no", must be true or false'),
        (b'{"prompt": "a", "logit_bias": [5]}', "logit_bias is .5., must be an object"),
        (b'{"prompt": "a", "logit_bias": {"x": 1}}', 'logit_bias has the name "x", must be a token id such as "50256"'),
        (b'{"prompt": "a", "logit_bias": {"1_0": 1}}', 'logit_bias has the name "1_0"'),
        (b'{"prompt": "a", "logit_bias": {"07": 1, "7": 2}}', 'logit_bias has the name "07"'),
        (b'{"prompt": "a", "logit_bias": {"7": 1, "7": 2}}', 'has "7" twice; give it once'),
        (b'{"prompt": "a", "temperature": 0, "temperature": 1}', 'has "temperature" twice; give it once'),
    ],
)
def test_a_line_that_cannot_be_read_says_why(text, complaint):
    with pytest.raises(JobError, match=complaint):
        read(text, 1, Defaults())


def test_a_value_out_of_range_is_refused_as_elsewhere():
    with pytest.raises(SettingError) as refused:
        line(temperature=-1)
    assert (refused.value.parameter, refused.value.value) == ("temperature", -1)


@pytest.mark.parametrize(("name", "meant"), [("temprature", '"temperature"'), ("promt", '"prompt"'), ("ids", '"id"')])
def test_an_unknown_name_is_refused_with_the_one_that_was_meant(name, meant):
    with pytest.raises(SettingError, match=f'unknown setting "{name}"; did you mean {meant}') as refused:
        line(**{name: 1})
    assert (refused.value.parameter, refused.value.value) == (name, 1)


def test_unknown_names_among_the_defaults_are_refused():
    for settings in ({"temprature": 1}, {"temperature": -1}, 5):
        with pytest.raises(SettingError):
            Defaults(settings=settings)


def test_defaults_may_be_flat_or_a_config():
    config = GenerationConfig.of(temperature=0.5, top_k=3, max_new_tokens=9, seed=5)
    for settings in ({"temperature": 0.5, "top_k": 3, "max_new_tokens": 9}, {"config": config}):
        job = line(top_k=4, defaults=Defaults(settings=settings))
        assert job.prompt.settings["sampling"] == SamplingConfig(temperature=0.5, top_k=4)
        assert job.prompt.settings["max_new_tokens"] == 9
        assert job.prompt.settings["seed"] == line().prompt.settings["seed"]  # of the line, not the config's


# Lines, and the digests below that they had before settings were rows: in a file that was begun then, none may change.
LINES = (
    {"prompt": "To be"},
    {"id": "a", "prompt": "To be", "temperature": 0.8, "top_k": 40, "stop": ["\n"], "seed": 7, "n": 3},
    {
        "token_ids": [464, 3290],
        "logit_bias": {"50256": -1.5, "7": 2},
        "bad_words_ids": [[5, 6]],
        "parse_special": True,
        "stop_token_ids": [9, 5],
        "overflow": "slide",
        "logprobs": 2,
        "min_new_tokens": 1,
    },
)
OPTIONS = ["--temperature", "0.5", "--stop", "x", "--stop", "y", "--stop-token-id", "5", "--max-new-tokens", "20"]


@pytest.mark.parametrize(
    ("arguments", "given", "digests"),
    [
        (None, {}, ("25028e9de77b27d1", "06b65ecd979176c4", "8947516cae28c794")),
        ([], {}, ("2fcfd9ca36c1c920", "d79903b06eedc4ee", "1c8dd05a67ad536c")),
        (
            [*OPTIONS, "--logit-bias", "50256=-1.5"],
            {"n": 2, "seed": 3},
            ("60813627c5cb6e76", "7e7eb4d51a5209c2", "08162052696cc537"),
        ),
    ],
    ids=["library", "command", "options"],
)
def test_the_digests_of_answers_that_are_there_stay_as_they_are(arguments, given, digests):
    settings = {}
    if arguments is not None:
        parsed = batch.make_context("batch", ["FOLDER", "INPUT", "OUTPUT", *arguments]).params
        settings = {**OF_THE_COMMAND, **options.settings({**parsed, "seed": None})}
    defaults = Defaults(model="m", settings=settings, **given)
    assert tuple(read(json.dumps(each).encode(), 3, defaults).digest for each in LINES) == digests


def test_the_digest_differs_where_the_answer_would():
    same = {line(id=id_).digest for id_ in ("a", "b")}
    assert len(same) == 1  # an id changes no answer
    others = [
        line(2),  # another seed
        line(n=2),
        line(temperature=0.5),
        line(stop=["x"]),
        line(overflow="slide"),
        read(b'{"token_ids": [64]}', 1, Defaults()),
        line(defaults=Defaults(model="other")),
        line(defaults=Defaults(seed=1)),
        line(defaults=Defaults(settings={"max_new_tokens": 5})),
    ]
    assert len({job.digest for job in others} | same) == len(others) + 1


SAMPLES = {
    "max_new_tokens": 1,
    "seed": 1,
    "stop": ["x"],
    "stop_token_ids": [1],
    "bad_words": ["x"],
    "overflow": "slide",
    "logprobs": 1,
    "prompt_logprobs": 1,
    "parse_special": False,
    "temperature": 0.5,
    "top_k": 1,
    "top_p": 0.5,
    "min_p": 0.5,
    "typical_p": 0.5,
    "repetition_penalty": 2.0,
    "frequency_penalty": 1.0,
    "presence_penalty": 1.0,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[1]],
    "min_new_tokens": 1,
}


def test_every_setting_of_a_request_has_its_name():
    assert {*SAMPLES, "id", "prompt", "token_ids", "n", "logit_bias"} == set(NAMES)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_setting_reaches_the_prompt(name):
    settings = line(**{name: SAMPLES[name]}).prompt.settings
    found = settings[name] if name in settings else getattr(settings["sampling"], name)
    assert found == (((1,),) if name == "bad_words_ids" else SAMPLES[name])


@pytest.mark.parametrize("depth", [300, 900, 990, 3000, 10**5])
def test_a_value_however_deep_is_read_or_refused(depth):
    line = b'{"prompt": "a", "stop": ' + b"[" * depth + b"]" * depth + b"}"
    with suppress(JobError):
        assert read(line, 1, Defaults()).digest


def test_an_id_that_no_line_could_answer_is_refused():
    with pytest.raises(JobError, match="half a surrogate pair"):
        read(rb'{"prompt": "a", "id": "\ud800"}', 1, Defaults())
    assert read(rb'{"prompt": "a", "id": "\ud83d\ude42"}', 1, Defaults()).id == "🙂"


def test_a_name_of_many_lines_is_reported_in_one():
    with pytest.raises(SettingError) as refused:
        read(rb'{"prompt": "a", "two\nlines": 1}', 1, Defaults())
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("seed", [-1, 2**128, 1.5, None])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(SettingError) as refused:
        Defaults(seed=seed)
    assert (refused.value.parameter, refused.value.value) == ("seed", seed)
