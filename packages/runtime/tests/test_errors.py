"""How a refused value is shown: on one line, whatever it is."""

import numpy as np
import pytest
from gpt2_runtime import SamplingConfig, Session, Tokenizer
from gpt2_runtime.errors import MOST_SHOWN, GPT2RuntimeError, SettingError, shown


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("a  b\n", r"'a  b\n'"),
        (np.eye(2), "array([[1., 0.], [0., 1.]])"),
        (10**5000, "int that is too long to show"),
        (nested(100_000), "list that is too long to show"),
        ("\ud800", r"'\ud800'"),
    ],
    ids=["text", "array", "number", "nested", "surrogate"],
)
def test_a_value_is_one_line(value, told):
    assert shown(value) == told


def test_a_long_value_is_cut():
    assert len(shown("x" * 10**6)) == MOST_SHOWN


@pytest.mark.parametrize("value", [10**5000, np.eye(9), "x" * 10**6], ids=["number", "array", "text"])
def test_a_refusal_shows_its_value_so(value):
    with pytest.raises(SettingError) as refused:
        SamplingConfig(min_p=value)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("name", ["a\rb", "a\nb", "a\x1b[31mb", "a\u2028b", "x" * 5000, "\n" * 5000])
def test_a_folder_of_any_name_is_refused_in_one_short_line(name):
    for call in (Session.open, Tokenizer.open):
        with pytest.raises(GPT2RuntimeError) as refusal:
            call(name)
        told = str(refusal.value)
        assert told.isprintable()
        assert len(told) < 1000
    assert str(SettingError("Zoë 你好, as it is")) == "Zoë 你好, as it is"
