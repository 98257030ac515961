"""Ids equal to transformers': stored for hard texts, and by a plain implementation of the rule for any text."""

import json
import os
import random
import re
import subprocess
import sys
import unicodedata
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import pytest
from gpt2_runtime.errors import PromptError, TokenIdError, TokenizerError
from gpt2_runtime.tokenizer.merges import BYTES
from gpt2_runtime.tokenizer.normalizer import normalize
from gpt2_runtime.tokenizer.tokenizer import WHITE_SPACE, Tokenizer
from gpt2_runtime.tokenizer.vocabulary import AddedToken, Vocabulary
from hypothesis import example, given
from hypothesis import strategies as st

DATA = Path(__file__).parents[1] / "data"

# transformers 5.23.0: GPT2TokenizerFast.from_pretrained(folder)(text)["input_ids"], for GPT-2's vocabulary and `bpe`.
HARD_TEXTS = json.loads((DATA / "hard_texts.json").read_text())
NAMES = [row["text"][:20].encode("unicode_escape").decode() for row in HARD_TEXTS]

GPT2_FOLDER = os.environ.get("GPT2_TOKENIZER_DIR")
needs_gpt2 = pytest.mark.skipif(
    GPT2_FOLDER is None, reason="GPT2_TOKENIZER_DIR names no folder with GPT-2's vocab.json and merges.txt"
)

CHARACTER_OF_BYTE = {byte: character for character, byte in BYTES.items()}


@pytest.fixture(scope="module")
def gpt2():
    return Tokenizer.open(GPT2_FOLDER)


@pytest.fixture(scope="module")
def small(bpe):
    return Tokenizer.open(bpe)


@needs_gpt2
@pytest.mark.parametrize("row", HARD_TEXTS, ids=NAMES)
def test_hard_texts_have_transformers_ids_in_gpt2s_vocabulary(gpt2, row):
    assert gpt2.encode(row["text"]) == row["gpt2"]
    assert gpt2.decode(row["gpt2"]) == row["text"]


@pytest.mark.parametrize("row", HARD_TEXTS, ids=NAMES)
def test_hard_texts_have_transformers_ids_in_a_small_vocabulary(small, row):
    assert small.encode(row["text"]) == row["bpe"]
    assert small.decode(row["bpe"]) == row["text"]


@needs_gpt2
def test_gpt2s_vocabulary_is_gpt2s(gpt2):
    assert gpt2.vocabulary.ids == list(range(50256))
    data = map(gpt2.token_bytes, range(50257))
    assert sum(token.decode(errors="ignore").encode() != token for token in data) == 344  # no valid UTF-8 alone


# Characters whose category is the same in the Unicode of every Python and of tiktoken's splitter.
ASSIGNED = st.characters(max_codepoint=0x2FFF, exclude_categories=["Cn", "Cs"])
MIXED = st.lists(st.text("ab 's\n\tThe.,1'llré🙂") | st.text(ASSIGNED, max_size=6)).map("".join)


@given(MIXED)
@example("they'll 've'd  '  x")
@example(" \n \n")
def test_any_text_has_the_ids_of_the_rule(small, rule, text):
    ids = small.encode(text, parse_special=False)
    assert ids == rule(text)
    assert small.decode(ids) == text


@pytest.fixture(scope="module")
def rule(bpe):
    """GPT-2's published algorithm: split, then join the listed pair of the lowest rank until there is none."""
    vocab = json.loads((bpe / "vocab.json").read_text())
    merges = [tuple(line.split(" ")) for line in (bpe / "merges.txt").read_text().split("\n")[1:-1]]
    ranks = {pair: rank for rank, pair in enumerate(merges)}

    def encode(text):
        ids = []
        for piece in split(text):
            parts = [CHARACTER_OF_BYTE[byte] for byte in piece.encode()]
            while pairs := [pair for pair in pairwise(parts) if pair in ranks]:
                first, second = min(pairs, key=ranks.__getitem__)
                joined, at = [], 0
                while at < len(parts):
                    taken = 2 if tuple(parts[at : at + 2]) == (first, second) else 1
                    joined.append("".join(parts[at : at + taken]))
                    at += taken
                parts = joined
            ids += [vocab[part] for part in parts]
        return ids

    return encode


def split(text):
    r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+, by hand."""

    def kind(character):
        category = unicodedata.category(character)[0]
        return "space" if character in WHITE_SPACE else category if category in "LN" else "other"

    def run_end(at):
        end = at
        while end < len(text) and kind(text[end]) == kind(text[at]):
            end += 1
        return end

    at = 0
    while at < len(text):
        contraction = next((c for c in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(c, at)), None)
        after_space = at + (text[at] == " ")
        if contraction:
            end = at + len(contraction)
        elif after_space < len(text) and kind(text[after_space]) != "space":
            end = run_end(after_space)
        else:
            end = run_end(at)
            if end < len(text) and end - at > 1:
                end -= 1  # the last space goes with the word that follows
        yield text[at:end]
        at = end


@given(st.data())
def test_permuted_ids_change_nothing_but_the_ids(bpe, small, data):
    vocabulary = small.vocabulary
    numbers = random.Random(data.draw(st.integers())).sample(range(5000), 700)
    permuted = Tokenizer(
        Vocabulary(
            ranks=vocabulary.ranks,
            ids=[numbers[id_] for id_ in vocabulary.ids],
            token_bytes={numbers[id_]: value for id_, value in vocabulary.token_bytes.items()},
            added=(),
            add_prefix_space=False,
        )
    )
    text = data.draw(MIXED)
    assert permuted.encode(text) == [numbers[id_] for id_ in small.encode(text, parse_special=False)]
    assert permuted.decode(permuted.encode(text)) == text


ADDED = (
    AddedToken(content="<|endoftext|>", id=699),
    AddedToken(content="<|user|>", id=700),
    AddedToken(content="<|user|><|x|>", id=701),
    AddedToken(content="<mask>", id=702, lstrip=True),
    AddedToken(content="<r>", id=703, rstrip=True),
    AddedToken(content="Romeo", id=704, special=False, normalized=True),
    AddedToken(content="user|", id=705, special=False, normalized=True),
    AddedToken(content="é", id=165, special=False, normalized=True),
)
ENDOFTEXT = [27, 91, 482, 78, 69, 83, 68, 87, 83, 91, 29]

# tokenizers 0.23.3 with these tokens: ids by default, and with encode_special_tokens, which spells out special ones.
ADDED_TEXTS = [
    (
        "<|user|>hi<|user|><|x|>yo<|x|>",
        [700, 367, 701, 88, 78, 27, 91, 87, 91, 29],
        [27, 91, 705, 29, 367, 27, 91, 705, 29, 27, 91, 87, 91, 29, 88, 78, 27, 91, 87, 91, 29],
    ),
    (
        "a \t\u2003<mask>b  <mask> c",
        [64, 702, 65, 702, 274],
        [64, 220, 197, 325, 225, 27, 76, 356, 74, 29, 65, 220, 220, 27, 76, 356, 74, 29, 274],
    ),
    ("p<r> \n q <r>", [79, 703, 80, 220, 703], [79, 27, 81, 29, 220, 198, 220, 80, 220, 27, 81, 29]),
    ("\x1c<mask> <r>\x1cz", [216, 702, 220, 703, 216, 89], [216, 27, 76, 356, 74, 29, 220, 27, 81, 29, 216, 89]),
    (
        "Romeo, Romeos and <|user|> user|> é",
        [704, 11, 220, 704, 82, 301, 220, 700, 220, 705, 29, 220, 165],
        [704, 11, 220, 704, 82, 301, 220, 27, 91, 705, 29, 220, 705, 29, 220, 165],
    ),
    (
        "<mask><mask>  <r> <mask>",
        [702, 702, 345, 703, 702],
        [27, 76, 356, 74, 29, 27, 76, 356, 74, 29, 220, 220, 27, 81, 29, 220, 27, 76, 356, 74, 29],
    ),
    ("x<r>   <|endoftext|>y", [87, 703, 699, 88], [87, 27, 81, 29, 345, 220, *ENDOFTEXT, 88]),
]


def with_added(small, add_prefix_space=False):
    vocabulary = small.vocabulary
    token_bytes = {**{token.id: token.content.encode() for token in ADDED}, **vocabulary.token_bytes}
    return Tokenizer(
        Vocabulary(
            ranks=vocabulary.ranks,
            ids=vocabulary.ids,
            token_bytes=token_bytes,
            added=ADDED,
            add_prefix_space=add_prefix_space,
        )
    )


@pytest.mark.parametrize(("text", "parsed", "spelled"), ADDED_TEXTS)
def test_added_tokens_are_found_as_the_tokenizers_library_finds_them(small, text, parsed, spelled):
    tokenizer = with_added(small)
    assert tokenizer.encode(text) == parsed
    assert tokenizer.encode(text, parse_special=False) == spelled


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("hi<|user|>there", [282, 72, 700, 590]),
        ("\nx", [220, 198, 87]),
        (" y", [279]),
        ("", []),
        ("<|user|>", [700]),
        ("Ro meo<|user|> z", [458, 78, 341, 78, 700, 220, 89]),
    ],
)
def test_a_prefix_space_is_added_where_the_tokenizers_library_adds_it(small, text, ids):
    assert with_added(small, add_prefix_space=True).encode(text) == ids


def test_empty_text_has_no_ids_even_without_added_tokens(small):
    tokenizer = Tokenizer(replace(small.vocabulary, added=(), add_prefix_space=True))
    assert (tokenizer.encode(""), tokenizer.encode("y")) == ([], [279])


def test_special_tokens_in_untrusted_text_can_be_encoded_as_text(small):
    assert small.encode("a<|endoftext|>b") == [64, 699, 65]
    ids = small.encode("a<|endoftext|>b", parse_special=False)
    assert 699 not in ids
    assert small.decode(ids) == "a<|endoftext|>b"


def test_an_id_that_only_pads_the_models_vocabulary_has_no_text(small):
    assert small.decode([64, 5000, 65]) == "ab"


def test_half_a_surrogate_pair_is_refused_with_its_position(small):
    with pytest.raises(PromptError, match=r"text has U\+DC80 at character 2, which is half a surrogate pair"):
        small.encode("ab\udc80")


@pytest.mark.once
@pytest.mark.parametrize("text", ["a", " ", "\n", "<", "é", "ab ", " \t"])
def test_a_megabyte_of_any_text_takes_a_moment(small, text):
    for long in (text * 500_000, "x" + text * 500_000 + "x"):
        assert small.decode(small.encode(long)) == long


@pytest.mark.parametrize(
    "long", ["x" + " " * 20_000 + "x", "\n" * 20_000 + "'s", " " * 20_000, " \u3000" * 9_000 + "\x1c"]
)
def test_where_long_runs_of_space_are_cut_changes_nothing(small, monkeypatch, long):
    cut = small.encode(long)
    monkeypatch.setitem(Tokenizer.encode.__globals__, "LONG_SPACE", re.compile("(?!)"))
    assert small.encode(long) == cut


def test_tokenizer_json_comes_first_and_a_folder_without_files_is_refused(folder, damaged, tmp_path):
    ids = Tokenizer.open(folder).encode("the other dogs")
    (damaged / "vocab.json").write_text("{}")
    assert Tokenizer.open(damaged).encode("the other dogs") == ids
    with pytest.raises(TokenizerError, match="has no tokenizer files"):
        Tokenizer.open(tmp_path)


def test_tiktoken_is_loaded_only_to_encode(folder):
    """Decoding does not load tiktoken, and encoding does not load the packages that tiktoken downloads with."""
    program = f"""
import sys
from gpt2_runtime.tokenizer.tokenizer import Tokenizer
tokenizer = Tokenizer.open({str(folder)!r})
tokenizer.decode([1, 2])
assert "tiktoken" not in sys.modules
tokenizer.encode("a")
assert "tiktoken" in sys.modules
assert not {{"requests", "urllib3", "regex", "tokenizers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("text", [None, 5, b"bytes", ["To be"]], ids=repr)
def test_text_must_be_a_string(small, text):
    with pytest.raises(PromptError, match=r"text is .*, must be a string"):
        small.encode(text)


@pytest.mark.parametrize(
    ("ids", "message"),
    [(None, "ids are None"), ("a", "token id is 'a'"), ([1.5], "token id is 1.5"), ([[5]], "is .5."), ([True], "True")],
)
def test_ids_must_be_integers(small, ids, message):
    with pytest.raises(TokenIdError, match=message):
        small.decode(ids)


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}], ids=str)
@pytest.mark.parametrize("text", ["<x>", " <x>", "<x>\t\n", " ", "<x>\n \n", "a <x> "])
def test_added_tokens_are_found_in_time_proportional_to_the_text(small, flags, text):
    """Takes a fraction of a second; scanning everything before or after each token would take minutes."""
    tokens = (
        AddedToken(content="<x>", id=700, **flags),
        AddedToken(content="\n", id=701),
        AddedToken(content="\t", id=702, rstrip=True),
    )
    tokenizer = Tokenizer(replace(small.vocabulary, added=tokens))
    long = text * (200_000 // len(text))
    start = perf_counter()
    ids = tokenizer.encode(long)
    assert perf_counter() - start < 10
    assert ids.count(700) == long.count("<x>")


@pytest.mark.parametrize("form", ["NFC", "NFKD"])
@pytest.mark.parametrize("text", ["a\u0301\u0323", "\u0301\u0323", "ﬁ각", "\u09fe\u0301"])
def test_normalizing_takes_time_proportional_to_the_text(small, form, text):
    long = "a" + text * 100_000
    start = perf_counter()
    Tokenizer(replace(small.vocabulary, normalizer=(form,))).encode(long)
    assert perf_counter() - start < 10


def test_long_runs_of_marks_are_in_unicode_order():
    marks = "\u0301\u0323\u0327" * 200
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert normalize([form], "a" + marks) == unicodedata.normalize(form, "a" + marks)


def test_prefix_and_suffix_ids_surround_a_text(small):
    tokenizer = Tokenizer(replace(small.vocabulary, prefix_ids=(5, 6), suffix_ids=(7,), normalizer=("NFC",)))
    bare = small.encode("caf\u00e9")
    assert tokenizer.encode("cafe\u0301") == [5, 6, *bare, 7]
    assert tokenizer.encode("cafe\u0301", add_special_tokens=False) == bare
    assert tokenizer.encode("") == [5, 6, 7]
