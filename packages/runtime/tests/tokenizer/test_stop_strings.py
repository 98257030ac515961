import numpy as np
import pytest
from gpt2_runtime.errors import SettingError
from gpt2_runtime.tokenizer.stop_strings import StopStrings
from hypothesis import example, given
from hypothesis import strategies as st

FEW_LETTERS = st.text("ab", min_size=1, max_size=5)


def streamed(stops, chunks):
    """The text let through, chunk by chunk, and the stop string that ended it."""
    matcher = StopStrings(stops)
    passed = "".join(map(matcher.feed, chunks))
    return passed + matcher.flush(), matcher.found


def expected(stops, text):
    """The same with str.find over the whole text."""
    matches = [(text.find(stop) + len(stop), text.find(stop), stop) for stop in stops if stop in text]
    if not matches:
        return text, None
    _, at, stop = min(matches)
    return text[:at], stop


@given(st.lists(FEW_LETTERS, max_size=4), st.lists(st.text("abc", max_size=4)))
@example(["aab"], list("aaab"))
@example(["abcd", "bc"], list("abce"))
@example(["b", "ab"], ["a", "b"])
def test_the_text_ends_where_str_find_says_for_any_chunks(stops, chunks):
    assert streamed(stops, chunks) == expected(stops, "".join(chunks))


@given(FEW_LETTERS, st.lists(st.text("abc", max_size=4)))
def test_only_a_possible_start_of_the_stop_string_is_held_back(stop, chunks):
    matcher, passed, fed = StopStrings([stop]), "", ""
    for chunk in chunks:
        passed, fed = passed + matcher.feed(chunk), fed + chunk
        if matcher.found is None:
            held = fed[len(passed) :]
            assert passed + held == fed
            assert stop.startswith(held)
            assert not any(stop.startswith(fed[-n:]) for n in range(len(held) + 1, min(len(stop), len(fed)) + 1))


def test_nothing_passes_after_a_stop():
    matcher = StopStrings(["."])
    assert [matcher.feed("a.b"), matcher.feed("c"), matcher.flush(), matcher.found] == ["a", "", "", "."]


def test_without_stop_strings_everything_passes_at_once():
    assert StopStrings([]).feed("abc") == "abc"


@pytest.mark.parametrize(
    ("stops", "message"),
    [
        (["a", ""], "stop string is '', must be text of at least one character"),
        ([3], "stop string is 3"),
        ("ab", "stop is 'ab', must be a list of strings; write \\[\"ab\"\\]"),
    ],
)
def test_an_invalid_stop_string_is_refused(stops, message):
    with pytest.raises(SettingError, match=message):
        StopStrings(stops)


@pytest.mark.parametrize(
    "stops",
    [None, 5, {"a"}, b"ab", np.array(["a", "b"]), iter(["a"])],
    ids=["None", "5", "set", "bytes", "array", "iterator"],
)
def test_stops_must_be_a_list(stops):
    with pytest.raises(SettingError, match=r"stop is .*, must be a list of strings; leave it out for none"):
        StopStrings(stops)
