"""Each processor against a definition written out here; their order, and which tokens they may forbid."""

import math
import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest
from gpt2_runtime import GREEDY, SamplingConfig
from gpt2_runtime.errors import LogitsError, SettingError
from gpt2_runtime.sampling.config import PROCESSORS, check_vocabulary
from gpt2_runtime.sampling.filters import probabilities
from gpt2_runtime.sampling.sampler import apply_processors, candidates, sample
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

VOCABULARY = 12
IDS = st.integers(0, VOCABULARY - 1)
LOGITS = arrays.arrays(np.float32, VOCABULARY, elements=st.integers(-80, 80).map(lambda n: n / 8))
TEXTS = st.lists(IDS, max_size=30)
BIASES = st.dictionaries(IDS, st.one_of(st.floats(-20, 20), st.just(-math.inf)), max_size=4)
WORDS = st.lists(st.lists(IDS, min_size=1, max_size=4), max_size=4)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "logit_bias": BIASES,
        "repetition_penalty": st.floats(0.25, 4),
        "frequency_penalty": st.floats(-2, 2),
        "presence_penalty": st.floats(-2, 2),
        "no_repeat_ngram_size": st.integers(1, 5),
        "bad_words_ids": WORDS,
        "min_new_tokens": st.integers(0, 10),
    },
)


def plainly(logits, prompt, new, stops, settings):
    """The definition of all processors, token by token, in float64."""
    text = [*prompt, *new]
    scores = []
    for token, logit in enumerate(logits.astype(np.float64)):
        logit += settings.get("logit_bias", {}).get(token, 0)
        if token in text:
            penalty = settings.get("repetition_penalty", 1)
            logit = logit * penalty if logit < 0 else logit / penalty
        logit -= settings.get("frequency_penalty", 0) * new.count(token)
        logit -= settings.get("presence_penalty", 0) * (token in new)
        extended = [*text, token]
        size = settings.get("no_repeat_ngram_size")
        if size and any(extended[-size:] == text[at : at + size] for at in range(len(text) - size + 1)):
            logit = -math.inf
        if any(extended[-len(word) :] == word for word in settings.get("bad_words_ids", ())):
            logit = -math.inf
        if token in stops and len(new) < settings.get("min_new_tokens", 0):
            logit = -math.inf
        scores.append(logit)
    return np.array(scores)


@given(LOGITS, TEXTS, TEXTS, st.sets(IDS, max_size=2), SETTINGS)
def test_processors_match_the_definition(logits, prompt, new, stops, settings):
    before = logits.copy()
    config = SamplingConfig(**settings)
    actual = apply_processors(logits, config, prompt_ids=prompt, new_ids=new, stop_token_ids=stops)
    expected = plainly(logits, prompt, new, stops, settings)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    assert actual.dtype == logits.dtype
    np.testing.assert_array_equal(logits, before)  # the caller's array is not modified


@given(LOGITS, TEXTS, TEXTS, st.sets(IDS, max_size=2), SETTINGS, st.floats(0.2, 3))
def test_probabilities_are_the_softmax_of_the_processed_logits(logits, prompt, new, stops, settings, temperature):
    config = SamplingConfig(temperature=temperature, **settings)
    text = {"prompt_ids": prompt, "new_ids": new, "stop_token_ids": stops}
    expected = plainly(logits, prompt, new, stops, settings)
    if expected.max() == -math.inf:
        with pytest.raises(SettingError, match="all 12 tokens are forbidden"):
            candidates(logits, config, **text)
        return
    left = candidates(logits, config, **text)
    full = np.zeros(VOCABULARY)
    full[left.ids] = probabilities(left)
    powers = np.exp((expected - expected.max()) / temperature)
    np.testing.assert_allclose(full, powers / powers.sum(), atol=1e-4)
    assert full.sum() == pytest.approx(1)
    greedy = sample(logits, replace(config, temperature=0), np.random.default_rng(0), **text)
    assert expected[greedy] == pytest.approx(expected.max(), rel=1e-5, abs=1e-5)
    assert expected[sample(logits, config, np.random.default_rng(0), **text)] > -math.inf


def test_without_processors_the_same_array_is_returned():
    logits = np.zeros(4, dtype=np.float32)
    plain = SamplingConfig(temperature=0.5, top_k=2, top_p=0.5, min_p=0.1, typical_p=0.9)
    assert plain.processors == ()
    assert apply_processors(logits, plain, prompt_ids=[1], new_ids=[2], stop_token_ids=[3]) is logits


ONE_OF_EACH = {
    "logit_bias": {1: 1.0},
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.1,
    "presence_penalty": -0.1,
    "no_repeat_ngram_size": 3,
    "bad_words_ids": [[1]],
    "min_new_tokens": 1,
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_setting_that_changes_logits_is_listed_as_a_processor(name):
    assert SamplingConfig(**{name: ONE_OF_EACH[name]}).processors == (name,)


def test_only_the_repetition_penalty_counts_the_prompt():
    logits = np.full(3, 2.0)
    repeated = apply_processors(logits, SamplingConfig(repetition_penalty=2.0), prompt_ids=[0], new_ids=[1])
    np.testing.assert_array_equal(repeated, [1, 1, 2])
    counted = apply_processors(logits, SamplingConfig(frequency_penalty=0.5), prompt_ids=[0, 0], new_ids=[1, 1])
    np.testing.assert_array_equal(counted, [2, 1, 2])
    present = apply_processors(logits, SamplingConfig(presence_penalty=0.5), prompt_ids=[0, 0], new_ids=[1, 1])
    np.testing.assert_array_equal(present, [2, 1.5, 2])


def test_the_order_is_bias_then_repetition_penalty_then_counts():
    config = SamplingConfig(logit_bias={0: 3.0}, repetition_penalty=2.0, frequency_penalty=0.25)
    np.testing.assert_array_equal(apply_processors(np.array([1.0]), config, new_ids=[0]), [1.75])


def test_a_bad_word_may_begin_in_the_prompt():
    config = SamplingConfig(bad_words_ids=[[3, 1, 2]])
    for prompt, new, forbidden in (([3], [1], [2]), ([3, 1], [], [2]), ([], [1], []), ([1], [3], [])):
        actual = apply_processors(np.zeros(4), config, prompt_ids=prompt, new_ids=new)
        assert np.flatnonzero(actual == -math.inf).tolist() == forbidden


def test_a_bad_word_that_is_a_stop_token_is_forbidden():
    actual = apply_processors(np.zeros(3), SamplingConfig(bad_words_ids=[[2]]), stop_token_ids=[2])
    np.testing.assert_array_equal(actual, [0, 0, -math.inf])


def test_stop_tokens_are_forbidden_until_there_are_enough_new_tokens():
    config = SamplingConfig(min_new_tokens=2)
    for new, expected in (([], -math.inf), ([1], -math.inf), ([1, 1], 0)):
        actual = apply_processors(np.zeros(3), config, prompt_ids=[1, 1, 1], new_ids=new, stop_token_ids={2, 50256})
        np.testing.assert_array_equal(actual, [0, 0, expected])


def test_the_text_can_be_lists_tuples_or_arrays():
    config = SamplingConfig(repetition_penalty=2.0, frequency_penalty=0.5, no_repeat_ngram_size=2)
    actual = [
        apply_processors(np.arange(1.0, 6), config, prompt_ids=kind([1, 2, 3]), new_ids=kind([4, 1]))
        for kind in (list, tuple, np.array)
    ]
    np.testing.assert_array_equal(actual[0], [1, 0.5, -math.inf, 2, 2])
    assert all(np.array_equal(other, actual[0]) for other in actual)


@pytest.mark.parametrize("config", [GREEDY, SamplingConfig()])
def test_forbidding_every_token_is_refused_naming_the_settings(config):
    config = replace(config, logit_bias={0: -math.inf}, bad_words_ids=[[1]], min_new_tokens=3)
    message = "all 3 tokens are forbidden, at least one must be left; loosen logit_bias, bad_words_ids, min_new_tokens$"
    logits, rng = np.zeros(3, dtype=np.float32), np.random.default_rng(0)
    with pytest.raises(SettingError, match=message):
        sample(logits, config, rng, stop_token_ids=[2])
    assert sample(logits, config, rng) == 2


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_processor_does_not_hide_damaged_logits(wrong):
    config = SamplingConfig(bad_words_ids=[[1]])
    with pytest.raises(LogitsError, match="must be finite"):
        sample(np.array([0.0, wrong]), config, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["repetition_penalty", "frequency_penalty", "presence_penalty"])
def test_the_largest_settings_overflow_nothing(name):
    logits = np.array([1e4, -1e4, 0, 5], dtype=np.float32)
    for value in (1e9, 1e-9, *([] if name == "repetition_penalty" else [-1e9])):
        config = SamplingConfig(**{name: value}, logit_bias={0: 1e9, 1: -1e9})
        actual = apply_processors(logits, config, new_ids=[0, 1, 2] * 300)
        assert np.isfinite(actual).all()
        assert np.isfinite(probabilities(candidates(logits, config, new_ids=[0, 1, 2] * 300))).all()


def test_a_config_cannot_be_changed_from_outside():
    bias, word = {7: 1, 2: -math.inf}, [4, 5]
    config = SamplingConfig(logit_bias=bias, bad_words_ids=[word])
    bias[9], word[0] = 3.0, 6
    assert config.logit_bias == ((2, -math.inf), (7, 1.0))
    assert config.bad_words_ids == ((4, 5),)
    same = SamplingConfig(logit_bias={2: -math.inf, 7: 1.0}, bad_words_ids=((4, 5),))
    assert config == same
    assert hash(config) == hash(same)
    assert replace(config, temperature=1.0) == config == SamplingConfig(**asdict(config))
    assert pickle.loads(pickle.dumps(config)) == config


def test_ids_outside_the_vocabulary_are_refused():
    config = SamplingConfig(logit_bias={4: 1.0}, bad_words_ids=[[1], [2, 9, 3]])
    check_vocabulary(SamplingConfig(), 1)
    check_vocabulary(config, 10)
    with pytest.raises(SettingError, match=r"^bad_words_ids has token id 9, must be below 9, the vocabulary's size"):
        check_vocabulary(config, 9)
    with pytest.raises(SettingError, match=r"^logit_bias has token id 4, must be below 4"):
        check_vocabulary(config, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_p": -0.1}, "min_p is -0.1, must be a number from 0 to 1; leave it out to keep all tokens"),
        ({"min_p": 1.1}, "min_p is 1.1, must be"),
        ({"min_p": math.nan}, "min_p is nan"),
        ({"min_p": "0.1"}, "min_p is '0.1'"),
        ({"typical_p": 0}, "typical_p is 0, must be above 0 and at most 1; leave it out to keep all tokens"),
        ({"typical_p": 1.5}, "typical_p is 1.5"),
        ({"typical_p": True}, "typical_p is True"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0, must be a number from 1e-09 to 1e+09; 1 is no penalty"),
        ({"repetition_penalty": -1.2}, "repetition_penalty is -1.2"),
        ({"repetition_penalty": math.inf}, "repetition_penalty is inf"),
        ({"repetition_penalty": None}, "repetition_penalty is None"),
        ({"frequency_penalty": -2e9}, "frequency_penalty is -2000000000.0, must be a number from -1e+09 to 1e+09; 0"),
        ({"frequency_penalty": math.nan}, "frequency_penalty is nan"),
        ({"presence_penalty": "high"}, "presence_penalty is 'high', must be a number from -1e+09 to 1e+09; 0 is no"),
        ({"presence_penalty": 10**400}, "presence_penalty is 1000"),
        ({"no_repeat_ngram_size": 0}, "no_repeat_ngram_size is 0, must be an integer of at least 1; leave it out to"),
        ({"no_repeat_ngram_size": 2.0}, "no_repeat_ngram_size is 2.0"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1, must be an integer of at least 0; 0 lets the text end at once"),
        ({"min_new_tokens": None}, "min_new_tokens is None"),
        ({"logit_bias": [5]}, "logit_bias is [5], must map token ids to numbers; leave it out for none"),
        ({"logit_bias": None}, "logit_bias is None"),
        ({"logit_bias": ((1, 2.0, 3),)}, "logit_bias is ((1, 2.0, 3),)"),
        ({"logit_bias": {"5": 1.0}}, "logit_bias has token id '5', must be an integer of at least 0"),
        ({"logit_bias": {-5: 1.0}}, "logit_bias has token id -5"),
        ({"logit_bias": {True: 1.0}}, "logit_bias has token id True"),
        ({"logit_bias": {5: math.inf}}, "logit_bias of token 5 is inf, must be a number from -1e+09 to 1e+09, or -inf"),
        ({"logit_bias": {5: math.nan}}, "logit_bias of token 5 is nan"),
        ({"logit_bias": {5: "1"}}, "logit_bias of token 5 is '1'"),
        ({"logit_bias": {5: -1e10}}, "logit_bias of token 5 is -10000000000.0"),
        ({"bad_words_ids": "bad"}, "bad_words_ids is 'bad', must be a list of lists of token ids; leave it out for"),
        ({"bad_words_ids": None}, "bad_words_ids is None"),
        ({"bad_words_ids": [5]}, "bad_words_ids has 5, must be a list of at least one token id"),
        ({"bad_words_ids": [[]]}, "bad_words_ids has [], must be a list of at least one token id"),
        ({"bad_words_ids": ["word"]}, "bad_words_ids has 'word', must be a list"),
        ({"bad_words_ids": [[1, -1]]}, "bad_words_ids has token id -1, must be an integer of at least 0"),
        ({"bad_words_ids": [["1"]]}, "bad_words_ids has token id '1'"),
    ],
)
def test_settings_out_of_range_are_refused_by_name_and_value(settings, message):
    with pytest.raises(SettingError) as caught:
        SamplingConfig(**settings)
    assert str(caught.value).startswith(message)
