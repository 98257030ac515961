"""Merges are read in every file format; the fast check of them agrees with the slow one."""

import random

import pytest
from gpt2_runtime.errors import TokenizerError
from gpt2_runtime.tokenizer.merges import BYTES, Merges, as_trained, refuse_unreachable
from hypothesis import given, settings
from hypothesis import strategies as st


def test_the_alphabet_has_a_character_for_each_byte():
    assert sorted(BYTES.values()) == list(range(256))
    assert (BYTES["A"], BYTES["Ġ"], BYTES["Ċ"], BYTES["ÿ"], BYTES["Ń"]) == (ord("A"), ord(" "), ord("\n"), 255, 0xAD)


@pytest.mark.parametrize("merges", [["a b", "ab c"], [["a", "b"], ["ab", "c"]], ["a b", ["ab", "c"]]])
def test_merges_are_lines_or_pairs(merges):
    assert list(Merges.read(merges, "here")) == [("a", "b", "ab"), ("ab", "c", "abc")]


def test_an_empty_list_of_merges_is_valid():
    assert list(Merges.read([], "here")) == []
    assert as_trained(Merges.read([], "here"))


@pytest.mark.parametrize(
    "wrong", ["ab", "a b c", "a  b", " b", "a ", "", ["a"], ["a", "b", "c"], ["a", ""], ["a", 1], [["a"], "b"], 7, None]
)
@pytest.mark.parametrize("others", [["x y", "z y"], [["x", "y"]], []])
def test_an_invalid_merge_is_refused_at_any_place(wrong, others):
    with pytest.raises(TokenizerError, match=r"here: .* is not a merge, must be two tokens") as refusal:
        Merges.read([*others, wrong, *others], "here")
    assert repr(wrong) in str(refusal.value)


@st.composite
def edited_merges(draw):
    """Merges of a few letters, mostly of two earlier tokens, with a few moved afterwards."""
    tokens, merges = ["a", "b", "c"], []
    for _ in range(draw(st.integers(0, 12))):
        left, right = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if left + right not in tokens or not draw(st.integers(0, 9)):
            merges.append((left, right))
            tokens.append(left + right)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2])) if merges else 0):
        merges.insert(draw(st.integers(0, len(merges) - 1)), merges.pop(draw(st.integers(0, len(merges) - 1))))
    return merges


@settings(max_examples=500)
@given(edited_merges())
def test_the_fast_check_agrees_with_the_slow_one(pairs):
    merges = Merges.read([list(pair) for pair in pairs], "here")
    try:
        refuse_unreachable(merges, "here")
        reachable = True
    except TokenizerError:
        reachable = False
    tokens_are_distinct = len(set(merges.tokens)) == len(pairs)
    assert as_trained(merges) == (reachable and tokens_are_distinct)


def test_trained_merges_pass_the_fast_check_and_most_edited_ones_fail(bpe):
    pairs = [line.split(" ") for line in (bpe / "merges.txt").read_text().split("\n")[1:-1]]

    def fast(pairs):
        return as_trained(Merges.read([list(pair) for pair in pairs], "here"))

    assert fast(pairs)
    rng = random.Random(0)
    kept = 0
    for _ in range(200):
        edited = list(pairs)
        edited.insert(rng.randrange(len(edited) // 2), edited.pop(rng.randrange(len(edited) // 2, len(edited))))
        slow = True
        try:
            refuse_unreachable(Merges.read(edited, "here"), "")
        except TokenizerError:
            slow = False
        assert fast(edited) == slow
        kept += slow
    assert 0 < kept < 150
