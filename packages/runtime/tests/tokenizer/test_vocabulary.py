"""The tokenizer files that are supported, and every refusal by name. For their meaning see test_tokenizer.py."""

import json
import random

import pytest
from gpt2_runtime.errors import BundleError, TokenizerError
from gpt2_runtime.tokenizer.merges import BYTES
from gpt2_runtime.tokenizer.tokenizer import Tokenizer
from gpt2_runtime.tokenizer.vocabulary import Vocabulary


@pytest.fixture
def files(bpe, tmp_path):
    """Changes a vocabulary and merges, writes them as vocab.json and merges.txt, and reads those."""

    def read(change_vocab=lambda vocab: vocab, change_merges=lambda merges: merges):
        vocab = json.loads((bpe / "vocab.json").read_text())
        merges = (bpe / "merges.txt").read_text().split("\n")[1:-1]
        vocab, merges = change_vocab(vocab) or vocab, change_merges(merges) or merges
        (tmp_path / "vocab.json").write_text(json.dumps(vocab))
        (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
        return Vocabulary.from_vocab_and_merges(tmp_path / "vocab.json", tmp_path / "merges.txt")

    return read


@pytest.fixture
def tokenizer_json(folder, tmp_path):
    """Reads the tiny folder's tokenizer.json after a change."""

    def read(change):
        fields = json.loads((folder / "tokenizer.json").read_text())
        change(fields)
        (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
        return Vocabulary.from_tokenizer_json(tmp_path / "tokenizer.json")

    return read


def test_both_kinds_of_files_give_the_same_ids(folder):
    assert Vocabulary.from_tokenizer_json(folder / "tokenizer.json").ids == (
        Vocabulary.from_vocab_and_merges(folder / "vocab.json", folder / "merges.txt").ids
    )


def test_entries_that_no_merge_makes_are_added_tokens(files):
    vocabulary = files()
    assert [(token.content, token.id) for token in vocabulary.added] == [("<|endoftext|>", 699)]
    assert len(vocabulary.ranks) == 699


def test_permuted_ids_follow_the_ranks(files):
    numbers = random.Random(0).sample(range(10_000), 700)
    straight, permuted = files(), files(lambda vocab: {token: numbers[id_] for token, id_ in vocab.items()})
    assert permuted.ranks == straight.ranks
    assert permuted.ids == [numbers[id_] for id_ in straight.ids]
    assert {numbers[id_]: data for id_, data in straight.token_bytes.items()} == permuted.token_bytes


def test_windows_line_endings_are_read(bpe, tmp_path, files):
    (tmp_path / "crlf.txt").write_bytes((bpe / "merges.txt").read_bytes().replace(b"\n", b"\r\n"))
    assert Vocabulary.from_vocab_and_merges(bpe / "vocab.json", tmp_path / "crlf.txt").ranks == files().ranks


def test_a_vocabulary_of_only_bytes_is_read(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(BYTES)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    vocabulary = Vocabulary.from_vocab_and_merges(tmp_path / "vocab.json", tmp_path / "merges.txt")
    assert len(vocabulary.ranks) == 256


def test_an_added_character_that_is_also_a_byte_stays_the_byte(tokenizer_json):
    vocabulary = tokenizer_json(
        lambda t: t["added_tokens"].append({"content": "é", "id": t["model"]["vocab"]["é"], "special": False})
    )
    id_ = next(token.id for token in vocabulary.added if token.content == "é")
    assert vocabulary.token_bytes[id_] == b"\xe9"


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        (lambda v: {**v, "a": "x"}, 'a is "x", not an id'),
        (lambda v: {**v, "a": -1}, "a is -1, not an id"),
        (lambda v: {**v, "a": True}, "a is true, not an id"),
        (lambda v: {**v, "a": v["b"]}, "two tokens have the same id"),
        (lambda v: {t: i for t, i in v.items() if t != "a"}, "lacks 1 of the 256 bytes, starting with 'a'"),
        (lambda v: {t: i for t, i in v.items() if t != "Ġt"}, "a merge makes 'Ġt', which is not in the vocabulary"),
    ],
)
def test_an_invalid_vocabulary_is_refused(files, vocab, message):
    with pytest.raises(BundleError, match=message):
        files(change_vocab=vocab)


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        (lambda m: ["abc", *m], "'abc' is not a merge, must be two tokens"),
        (lambda m: ["a b c", *m], "'a b c' is not a merge"),
        (lambda m: [m[0], "", *m[1:]], "'' is not a merge"),
        (lambda m: m[::-1], "joins tokens that no earlier merge makes"),
    ],
)
def test_invalid_merges_are_refused(files, merges, message):
    with pytest.raises(TokenizerError, match=message):
        files(change_merges=merges)


def test_merges_that_tiktoken_would_apply_differently_are_refused(tmp_path):
    """abc needs a and bc, but ab comes first: the tokenizers library never makes abc, but tiktoken would."""

    def read(merges):
        tokens = [*BYTES, *dict.fromkeys("".join(merge.split()) for merge in merges)]
        (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        (tmp_path / "merges.txt").write_text("\n".join([*merges, ""]))
        return Vocabulary.from_vocab_and_merges(tmp_path / "vocab.json", tmp_path / "merges.txt")

    with pytest.raises(TokenizerError, match="token 'abc' is unreachable: earlier merges split its text into ab c;"):
        read(["a b", "b c", "a bc"])
    with pytest.raises(TokenizerError, match="merge 'ab' 'c' makes a token that an earlier merge already makes"):
        read(["b c", "a bc", "a b", "ab c"])
    assert len(read(["b c", "a b", "a bc", "ab c"]).ranks) == 259  # every split of abc in one place


TEXT = {"Sequence": {"id": "A", "type_id": 0}}
BEGIN = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}


def template(*parts, ids=(299,)):
    """A post-processor that puts these parts together."""
    special = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": list(ids), "tokens": ["<|endoftext|>"] * len(ids)}}
    return {"type": "TemplateProcessing", "single": list(parts), "pair": [], "special_tokens": special}


def twice(processor):
    return {"type": "Sequence", "processors": [processor, {"type": "ByteLevel"}, processor]}


def sequence(*normalizers):
    return {"type": "Sequence", "normalizers": list(normalizers)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update(normalizer={"type": "Lowercase"}),
            "normalizer is 'Lowercase', must be among NFC, NFD, NFKC",
        ),
        (lambda t: t.update(normalizer=sequence({"type": "NFC"}, {"type": "Strip"})), "normalizer is 'Strip'"),
        (lambda t: t.update(normalizer="NFC"), "normalizer is 'NFC', must be among"),
        (lambda t: t.update(pre_tokenizer=None), "pre_tokenizer is None"),
        (lambda t: t.update(pre_tokenizer={"type": "Sequence"}), "pre_tokenizer is 'Sequence'"),
        (lambda t: t["pre_tokenizer"].update(use_regex=False), "use_regex is False"),
        (lambda t: t.update(post_processor={"type": "Other"}), "post_processor is 'Other', which is not supported"),
        (lambda t: t.update(post_processor={"type": "TemplateProcessing"}), "single is absent, not a list"),
        (lambda t: t.update(post_processor=template(BEGIN)), "single has the text 0 times, must be once"),
        (lambda t: t.update(post_processor=template(TEXT, TEXT)), "single has the text 2 times"),
        (lambda t: t.update(post_processor=template({"Sequence": {"id": "B"}})), "single has {'Sequence'"),
        (
            lambda t: t.update(post_processor=template({"SpecialToken": {"id": "<s>"}}, TEXT)),
            "single has {'SpecialToken'",
        ),
        (lambda t: t.update(post_processor=template(BEGIN, TEXT, ids=[-1])), r"ids is \[-1\], not token ids"),
        (lambda t: t.update(post_processor={"type": "BertProcessing", "cls": 1}), "cls is 1, not a token and its id"),
        (lambda t: t.update(post_processor=twice(template(BEGIN, TEXT))), "adds tokens more than once"),
        (lambda t: t.update(decoder={"type": "WordPiece"}), "decoder is 'WordPiece'"),
        (lambda t: t["model"].update(type="WordPiece"), "type is 'WordPiece'"),
        (lambda t: t["model"].update(dropout=0.1), "dropout is 0.1"),
        (lambda t: t["model"].update(continuing_subword_prefix="##"), "continuing_subword_prefix is '##'"),
        (lambda t: t["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix is '</w>'"),
        (lambda t: t["model"].update(byte_fallback=True), "byte_fallback is True"),
        (lambda t: t["model"].update(ignore_merges=True), "ignore_merges is True"),
        (lambda t: t["model"].update(merges=[["a"]]), r"\['a'\] is not a merge"),
        (lambda t: t["model"].update(merges={}), r"merges is \{\}, not a list"),
        (lambda t: t["added_tokens"][0].update(single_word=True), r"'<\|endoftext\|>' is single_word"),
        (lambda t: t["added_tokens"][0].update(id=5), r"token '<\|endoftext\|>' has two ids, 5 and 299"),
        (lambda t: t["added_tokens"][0].update(id=5, content="<x>"), "two tokens have the same id"),
        (lambda t: t["added_tokens"][0].update(content=""), 'content is "", not text of at least one character'),
        (lambda t: t.update(added_tokens=["x"]), r'added_tokens is \["x"\], not a list of objects'),
        (lambda t: t.pop("model"), "model is absent"),
    ],
)
def test_a_tokenizer_json_of_another_kind_is_refused_by_name(tokenizer_json, change, message):
    with pytest.raises(BundleError, match=message):
        tokenizer_json(change)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["model"].pop("type"),  # GPT-2's own file
        lambda t: t["model"].update(dropout=0.0, continuing_subword_prefix=None, end_of_word_suffix=None),
        lambda t: t["model"].update(
            merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in t["model"]["merges"]]
        ),
        lambda t: t.update(post_processor=None, decoder=None, truncation={"max_length": 3}, padding={}),
        lambda t: t.update(post_processor=template(TEXT)),  # as transformers 5 saves it
    ],
)
def test_differences_that_change_no_ids_are_read(folder, tokenizer_json, change):
    assert tokenizer_json(change).ids == Tokenizer.open(folder).vocabulary.ids
