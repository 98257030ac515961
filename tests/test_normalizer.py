"""The runtime normalizes, and matches added tokens in normalized text, as the tokenizers library does."""

import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import vocabularies
from gpt2_runtime import Tokenizer
from gpt2_runtime.tokenizer.normalizer import FORMS, NEWER, SHORT, Form, normalize
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, ByteLevelBPETokenizer, normalizers, processors

ALL = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
MARKED = [character for character in ALL if unicodedata.combining(character) or NEWER.match(character)]
APART = [character for character in ALL if unicodedata.decomposition(character)]


def library(form: Form) -> Any:
    return getattr(normalizers, form)()


@pytest.mark.parametrize("form", ["NFKC", *(pytest.param(form, marks=pytest.mark.nightly) for form in FORMS)])
def test_every_code_point_alone_and_between_marks(form: Form) -> None:
    theirs = library(form)
    framed = [f"{character} a\u0301{character}\u0301\u0323 \u1100{character}\u11a8 " for character in ALL]
    texts = ["".join(framed[at : at + 16]) for at in range(0, len(framed), 16)]
    assert max(map(len, texts)) <= SHORT
    wrong = [text for text in texts if normalize([form], text) != theirs.normalize_str(text)]
    assert not wrong, wrong[0].encode("unicode_escape")


def mixed(draws: random.Random, most: int) -> str:
    kinds = (MARKED, APART, ALL, "aeiou \n가각각")
    return "".join(draws.choice(draws.choice(kinds)) for _ in range(draws.randrange(most)))


@pytest.mark.parametrize("form", FORMS)
def test_characters_and_marks_in_any_order(form: Form) -> None:
    draws, theirs = random.Random(form), library(form)
    for most in (8,) * 2000 + (3 * SHORT,) * 60:
        text = mixed(draws, most)
        assert normalize([form], text) == theirs.normalize_str(text), text.encode("unicode_escape")


TOKENS = {
    "<|x|>": {"special": True, "normalized": False},
    "<é>": {"special": True, "normalized": False, "lstrip": True},
    "café": {"normalized": True},
    "e\u0301n": {"normalized": True, "rstrip": True},
    "ét": {"special": True, "normalized": True, "lstrip": True},
    "\ufb01n": {"normalized": True},
    "fi": {"normalized": False, "rstrip": True},
    "\n": {"normalized": False},
}
PIECES = [*TOKENS, "cafe\u0301", "<e\u0301>", "e\u0301", " ", "\u2003", "t", "ﬁ", "n", "é", "a", "\u0323", "\u09fe"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    vocabularies.write(folder)
    return folder


@settings(max_examples=60, deadline=None)
@given(
    forms=st.lists(st.sampled_from(FORMS), max_size=2),
    tokens=st.lists(st.sampled_from(list(TOKENS)), unique=True),
    prefix_space=st.booleans(),
    ends=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    texts=st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), min_size=1, max_size=12),
)
def test_any_tokenizer_gives_the_librarys_ids(
    base: Path, forms: list[Form], tokens: list[str], prefix_space: bool, ends: tuple[int, int], texts: list[str]
) -> None:
    theirs = ByteLevelBPETokenizer(
        str(base / "vocab.json"), str(base / "merges.txt"), add_prefix_space=prefix_space
    )._tokenizer
    if forms:
        parts = [library(form) for form in forms]
        theirs.normalizer = parts[0] if len(parts) == 1 else normalizers.Sequence(parts)
    theirs.add_tokens([AddedToken(content, **TOKENS[content]) for content in tokens])
    end = vocabularies.END_OF_TEXT
    before, after = (" ".join([end] * count) for count in ends)
    theirs.post_processor = processors.TemplateProcessing(
        single=f"{before} $A {after}".strip(), special_tokens=[(end, theirs.token_to_id(end))]
    )
    folder = base / "json"
    folder.mkdir(exist_ok=True)
    theirs.save(str(folder / "tokenizer.json"))
    ours = Tokenizer.open(folder)
    for text in texts:
        assert ours.encode(text) == theirs.encode(text).ids
        bare = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_special_tokens=False) == bare
        assert ours.decode(bare) == theirs.decode(bare, skip_special_tokens=False)
    theirs.encode_special_tokens = True
    for text in texts:
        assert ours.encode(text, parse_special=False) == theirs.encode(text).ids


PROCESSORS = {
    "byte level": processors.ByteLevel(),
    "roberta": processors.RobertaProcessing(("b", 1), ("a", 2)),
    "bert": processors.BertProcessing(("b", 1), ("a", 2)),
    "sequence": processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="a a $A b", special_tokens=[("a", 3), ("b", 4)]),
        ]
    ),
}


@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
def test_what_a_post_processor_adds(base: Path, tmp_path: Path, processor: Any) -> None:
    theirs = ByteLevelBPETokenizer(str(base / "vocab.json"), str(base / "merges.txt"))._tokenizer
    theirs.post_processor = processor
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.open(tmp_path)
    for text in ("", "To be", " é"):
        assert ours.encode(text) == theirs.encode(text).ids
