"""Whichever tokenizer files a checkpoint has, the folder has all of them, and they give the same ids."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpt2_export.errors import GPT2ExportError
from gpt2_export.freeze import tokenizer_files
from gpt2_model import GPT2Error
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, pre_tokenizers

CONFIG = {"vocab_size": 300, "n_positions": 24}
PAIR = {"vocab.json", "merges.txt"}
ALL = PAIR | {"tokenizer.json", "tokenizer_config.json"}
END = "<|endoftext|>"

HARD_TEXTS = [
    "",
    " ",
    "  two  spaces ",
    "\n\n\t\r\n tabs\u00a0and\u2003wide spaces\u3000",
    "the quick brown fox's don't WON'T I'LL ’re",
    "naïve café Ångström ﬁ ½ ²³ İstanbul ß",
    "e\u0301 combining, \u200d joiners, \u202e reversed \ufeff marks",
    "日本語の文章です。中文字符 한국어 العربية עברית हिन्दी ไทย",
    "👍🏽👨‍👩‍👧‍👦🏳️‍🌈 \U0001f600",
    "1234567890 3.14 1,000,000 ٣ ౩",
    "a\x00b\x7f\x1b[0m",
    "def f(x):\n    return {**x, 'k': [1, 2]}  # ĠĊ Ċ",
    END,
    f"one{END}two {END} three{END}{END}",
    "<|endoftext |> < |endoftext|> <|ENDOFTEXT|>",
    "the " * 200,
]

Copy = Callable[[Path], list[str]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    return out


@pytest.fixture
def having(tmp_path: Path, vocabulary: Path) -> Callable[..., Path]:
    """A folder with only the named files, all of one tokenizer."""

    def having(*names: str) -> Path:
        folder = tmp_path / "source"
        folder.mkdir()
        for name in PAIR:
            (folder / name).write_bytes((vocabulary / name).read_bytes())
        whole = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
        whole.add_special_tokens([END])
        whole.save(str(folder / "tokenizer.json"))
        for name in PAIR | {"tokenizer.json"}:
            if name not in names:
                (folder / name).unlink()
        return folder

    return having


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def ids_of_pair(folder: Path, *texts: str) -> list[list[int]]:
    """The ids by vocab.json and merges.txt, with the end of text split off by hand."""
    bare = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    end = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))[END]

    def ids(text: str) -> list[int]:
        first, *rest = (bare.encode(part).ids for part in text.split(END))
        return first + [token for part in rest for token in (end, *part)]

    return [ids(text) for text in texts]


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize("files", [PAIR, {"tokenizer.json"}, PAIR | {"tokenizer.json"}], ids=["pair", "json", "both"])
def test_from_any_set_of_files_all_are_made_and_give_the_ids_of_the_pair(
    having: Callable[..., Path], out: Path, vocabulary: Path, files: set[str]
) -> None:
    assert tokenizer_files.copy(having(*files), out, CONFIG).warnings == ()
    assert names(out) == ALL
    expected = ids_of_pair(vocabulary, *HARD_TEXTS)
    from_json = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert [from_json.encode(text).ids for text in HARD_TEXTS] == expected
    assert ids_of_pair(out, *HARD_TEXTS) == expected
    assert [from_json.decode(ids, skip_special_tokens=False) for ids in expected] == HARD_TEXTS


@pytest.mark.parametrize("files", [PAIR, {"tokenizer.json"}, PAIR | {"tokenizer.json"}], ids=["pair", "json", "both"])
def test_the_sources_own_files_are_copied_byte_for_byte(
    having: Callable[..., Path], out: Path, files: set[str]
) -> None:
    source = having(*files)
    tokenizer_files.copy(source, out, CONFIG)
    (source / "tokenizer_config.json").write_bytes((out / "tokenizer_config.json").read_bytes() + b" ")
    (source / "chat_template.jinja").write_text("{{ messages[0].content }}\n")
    tokenizer_files.copy(source, out, CONFIG)
    for file in source.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("files", [set(), {"vocab.json"}, {"merges.txt"}], ids=["none", "vocab", "merges"])
def test_a_source_with_too_few_files_raises_a_warning_and_leaves_none(
    having: Callable[..., Path], out: Path, files: set[str]
) -> None:
    source = having(*files)
    (source / "tokenizer_config.json").write_text("{}")
    (warning,) = tokenizer_files.copy(source, out, CONFIG).warnings
    assert warning.endswith("the folder takes token ids only")
    assert names(out) == set()


@pytest.mark.parametrize("lone", sorted(PAIR))
def test_one_file_of_the_pair_alone_is_replaced_from_tokenizer_json(
    having: Callable[..., Path], out: Path, vocabulary: Path, lone: str
) -> None:
    source = having("tokenizer.json")
    (source / lone).write_text("{}")
    tokenizer_files.copy(source, out, CONFIG)
    assert ids_of_pair(out, *HARD_TEXTS) == ids_of_pair(vocabulary, *HARD_TEXTS)


@pytest.mark.parametrize("form", ["strings", "pairs"])
def test_merges_may_be_strings_or_pairs(having: Callable[..., Path], out: Path, vocabulary: Path, form: str) -> None:
    source = having("tokenizer.json")

    def rewrite(document: dict[str, Any]) -> None:
        pairs = [m.split(" ") if isinstance(m, str) else m for m in document["model"]["merges"]]
        document["model"]["merges"] = pairs if form == "pairs" else [" ".join(pair) for pair in pairs]

    change_json(source / "tokenizer.json", rewrite)
    tokenizer_files.copy(source, out, CONFIG)
    assert (out / "merges.txt").read_text(encoding="utf-8").split() == (
        (vocabulary / "merges.txt").read_text(encoding="utf-8").split()
    )


def test_added_tokens_of_a_tokenizer_json_are_in_the_vocabulary(having: Callable[..., Path], out: Path) -> None:
    source = having("tokenizer.json")
    added = {"id": 300, "content": "<|pad|>", "special": True, "single_word": False, "lstrip": False, "rstrip": False}
    change_json(source / "tokenizer.json", lambda d: d["added_tokens"].append(added | {"normalized": False}))
    assert tokenizer_files.copy(source, out, CONFIG | {"vocab_size": 301}).warnings == ()
    assert json.loads((out / "vocab.json").read_text(encoding="utf-8"))["<|pad|>"] == 300


def test_added_tokens_beside_a_pair_are_in_the_tokenizer_json(having: Callable[..., Path], out: Path) -> None:
    source = having(*PAIR)
    (source / "added_tokens.json").write_text('{"<|pad|>": 300}')  # as transformers 4's slow tokenizers save them
    tokenizer_files.copy(source, out, CONFIG | {"vocab_size": 301})
    ids = Tokenizer.from_file(str(out / "tokenizer.json")).encode("fox<|pad|>fox").ids
    (fox,) = ids_of_pair(source, "fox")
    assert ids == [*fox, 300, *fox]


def test_the_made_config_names_the_context_and_the_end_of_text(having: Callable[..., Path], out: Path) -> None:
    tokenizer_files.copy(having(*PAIR), out, CONFIG)
    document = json.loads((out / "tokenizer_config.json").read_text())
    assert (document["tokenizer_class"], document["model_max_length"]) == ("GPT2Tokenizer", 24)
    assert document["eos_token"] == document["bos_token"] == END


def test_a_vocabulary_without_an_end_of_text_gets_none(having: Callable[..., Path], out: Path) -> None:
    source = having(*PAIR)
    change_json(source / "vocab.json", lambda vocab: vocab.pop(END))
    tokenizer_files.copy(source, out, CONFIG | {"vocab_size": 299})
    assert json.loads((out / "tokenizer_config.json").read_text())["eos_token"] is None
    assert Tokenizer.from_file(str(out / "tokenizer.json")).token_to_id(END) is None


def test_an_end_of_text_that_the_model_has_a_row_for_is_added_as_in_transformers(
    having: Callable[..., Path], out: Path
) -> None:
    source = having(*PAIR)
    change_json(source / "vocab.json", lambda vocab: vocab.pop(END))
    assert tokenizer_files.copy(source, out, CONFIG).warnings == ()
    assert Tokenizer.from_file(str(out / "tokenizer.json")).token_to_id(END) == 299


@pytest.mark.parametrize(("vocab_size", "warned"), [(299, True), (300, False), (301, False)])
def test_a_tokenizer_with_more_ids_than_the_model_raises_a_warning(
    having: Callable[..., Path], out: Path, vocab_size: int, warned: bool
) -> None:
    warnings = tokenizer_files.copy(having(*PAIR), out, CONFIG | {"vocab_size": vocab_size}).warnings
    expected = "the tokenizer has ids up to 299, the model only up to 298: text with those will fail"
    assert warnings == ((expected,) if warned else ())


def not_an_object(document: dict[str, Any]) -> None:
    document["model"] = []


def without_merges(document: dict[str, Any]) -> None:
    del document["model"]["merges"]


def merges_of_numbers(document: dict[str, Any]) -> None:
    document["model"]["merges"] = [1, 2]


def vocabulary_of_strings(document: dict[str, Any]) -> None:
    document["model"]["vocab"] = {"a": "0", "b": 1}


def added_tokens_without_ids(document: dict[str, Any]) -> None:
    document["added_tokens"] = [{"content": "x"}]


def added_tokens_that_are_null(document: dict[str, Any]) -> None:
    document["added_tokens"] = None


@pytest.mark.parametrize(
    "damage",
    [
        not_an_object,
        without_merges,
        merges_of_numbers,
        vocabulary_of_strings,
        added_tokens_without_ids,
        added_tokens_that_are_null,
    ],
    ids=lambda damage: damage.__name__,
)
@pytest.mark.parametrize("files", [{"tokenizer.json"}, PAIR | {"tokenizer.json"}], ids=["json", "both"])
def test_a_tokenizer_json_that_is_not_a_bpe_is_refused_by_name(
    having: Callable[..., Path], out: Path, damage: Callable[[dict[str, Any]], None], files: set[str]
) -> None:
    source = having(*files)
    change_json(source / "tokenizer.json", damage)
    with pytest.raises((GPT2ExportError, GPT2Error)) as refusal:
        tokenizer_files.copy(source, out, CONFIG)
    assert str(refusal.value).startswith(f"{source / 'tokenizer.json'} ")
    assert str(out) not in str(refusal.value)


def test_a_tokenizer_json_may_have_no_added_tokens(having: Callable[..., Path], out: Path) -> None:
    source = having("tokenizer.json")
    change_json(source / "tokenizer.json", lambda document: document.pop("added_tokens"))
    tokenizer_files.copy(source, out, CONFIG)
    assert names(out) == ALL


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", "{"),
        ("vocab.json", "[]"),
        ("vocab.json", '{"a": "0"}'),
        ("vocab.json", '{"a": null}'),
        ("merges.txt", "#version: 0.2\nnot a merge at all\n"),
    ],
)
def test_a_pair_that_is_not_a_bpe_is_refused_by_name(
    having: Callable[..., Path], out: Path, name: str, content: str
) -> None:
    source = having(*PAIR)
    (source / name).write_text(content)
    with pytest.raises((GPT2ExportError, GPT2Error), match=name.replace(".", r"\.")):
        tokenizer_files.copy(source, out, CONFIG)


@pytest.mark.parametrize("file", ["vocab.json", "tokenizer.json"])
def test_two_tokens_with_one_id_are_refused_by_name(having: Callable[..., Path], out: Path, file: str) -> None:
    source = having(*(PAIR if file == "vocab.json" else {file}))

    def share(document: dict[str, Any]) -> None:
        vocab = document if file == "vocab.json" else document["model"]["vocab"]
        vocab["!"] = vocab["a"]

    change_json(source / file, share)
    with pytest.raises(GPT2Error, match=r"'!' and 'a' have the same id, \d+; give each its own"):
        tokenizer_files.copy(source, out, CONFIG)


@pytest.fixture(scope="session")
def real_pair() -> Path:
    folder = os.environ.get("GPT2_TOKENIZER_DIR")
    if not folder:
        pytest.skip("GPT2_TOKENIZER_DIR is not set to a folder with GPT-2's own vocab.json and merges.txt")
    return Path(folder)


def test_gpt2s_own_vocabulary_gives_its_own_ids(real_pair: Path, out: Path) -> None:
    assert tokenizer_files.copy(real_pair, out, {"vocab_size": 50257, "n_positions": 1024}).warnings == ()
    from_json = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert from_json.encode("Hello world").ids == [15496, 995]
    assert from_json.encode(END).ids == [50256]
    encoded = [from_json.encode(text).ids for text in HARD_TEXTS]
    assert encoded == ids_of_pair(real_pair, *HARD_TEXTS)
    assert [from_json.decode(ids, skip_special_tokens=False) for ids in encoded] == HARD_TEXTS
