"""What the checks of arguments let pass and refuse, and what a program can read from an error."""

import math
import pickle
from collections.abc import Collection

import numpy as np
import pytest
from gpt2_runtime import SamplingConfig
from gpt2_runtime.arguments import (
    check_choice,
    check_flag,
    check_ids,
    check_integer,
    check_number,
    check_texts,
    check_type,
    invalid,
    is_list,
)
from gpt2_runtime.errors import GPT2RuntimeError, SettingError


def refused(check, *given, **limits):
    with pytest.raises(SettingError) as error:
        check("it", *given, **limits)
    assert error.value.parameter == "it"
    assert error.value.value is given[0]
    return str(error.value)


@pytest.mark.parametrize("value", [0, 6, True, 1.0, "1", None, np.int64(1), math.nan])
def test_an_integer_is_of_its_type_and_range(value):
    assert refused(check_integer, value, 1, 5).endswith("must be an integer from 1 to 5")
    check_integer("it", 1, 1, 5)
    check_integer("it", 5, 1, 5)
    check_integer("it", 10**400, 1)


@pytest.mark.parametrize("value", [-0.1, 1.1, True, "1", None, math.nan, math.inf, 10**400, np.float32(1)])
def test_a_number_is_of_its_type_and_range(value):
    assert refused(check_number, value, 0, 1).endswith("must be a number from 0 to 1")
    check_number("it", 0, 0, 1)
    check_number("it", 1.0, 0, 1)


def test_a_lower_limit_may_be_refused_itself():
    assert refused(check_number, 0, 0, 1, above=True).endswith("must be above 0 and at most 1")
    check_number("it", 1e-300, 0, 1, above=True)
    assert refused(check_number, math.inf, 0).endswith("must be a number of at least 0")


@pytest.mark.parametrize("value", [0, 1, None, "no", np.True_])
def test_a_flag_is_true_or_false(value):
    refused(check_flag, value)
    check_flag("it", False)


@pytest.mark.parametrize("value", ["c", "", None, 1, ["a"], np.array(["a", "b"])], ids=repr)
def test_a_choice_is_one_of_the_words(value):
    assert refused(check_choice, value, ("a", "b")).endswith("must be 'a' or 'b'")
    check_choice("it", "b", ("a", "b"))


def test_a_type_is_the_one_named():
    assert refused(check_type, 5, str, "leave it out") == "it is 5, must be a str; leave it out"
    check_type("it", "5", str)


@pytest.mark.parametrize("value", ["word", None, 5, [""], [5], ["a", None], ["abcd"], ["a", "b", "c"]], ids=repr)
def test_texts_are_a_list_of_limited_length_and_characters(value):
    with pytest.raises(SettingError) as error:
        check_texts("it", "one of it", value, most=2, longest=3)
    assert (error.value.parameter, error.value.value) == ("it", value)
    check_texts("it", "one of it", ["abc", "b"], most=2, longest=3)
    check_texts("it", "one of it", (), most=2, longest=3)


@pytest.mark.parametrize("value", [5, None, "ab", b"ab", [1.5], [True], [[5]], np.array(5), np.eye(2), ["5"]], ids=repr)
def test_ids_are_integers_in_one_dimension(value):
    assert refused(check_ids, value).endswith("must be a list of integers")
    for right in ([5, 6], (5, 6), {5, 6}, range(5, 7), np.array([5, 6]), [np.int64(5), 6]):
        assert check_ids("it", right) == frozenset({5, 6})


def test_a_text_or_a_set_is_no_list():
    assert [is_list(value) for value in ([1], (), range(2), np.array([1]))] == [True] * 4
    assert not any(is_list(value) for value in ("ab", b"ab", bytearray(b"ab"), {1}, {}, np.array(1), np.eye(2), None))
    assert is_list({1}, Collection)


def test_an_error_that_is_sent_to_another_process_keeps_its_parameter_and_value():
    with pytest.raises(SettingError) as error:
        SamplingConfig(top_k=0)
    there = pickle.loads(pickle.dumps(error.value))
    assert (type(there), str(there)) == (SettingError, str(error.value))
    assert (there.parameter, there.value) == ("top_k", 0)


def test_an_error_of_no_parameter_has_none():
    error = GPT2RuntimeError("the disk is full")
    assert (error.parameter, error.value) == (None, None)
    assert invalid("it", None, "must be there").parameter == "it"
