"""Which parts of a tokenizer are kept, left out or only warned about; and the comparison of folder and source."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpt2_export.errors import VerificationError
from gpt2_export.freeze import tokenizer_files
from gpt2_export.verification import tokenizer_parity
from tokenizers import ByteLevelBPETokenizer, Tokenizer

CONFIG = {"vocab_size": 300, "n_positions": 24}
PAIR = {"vocab.json", "merges.txt"}
ALL = PAIR | {"tokenizer.json", "tokenizer_config.json"}
END = "<|endoftext|>"
HARD_TEXTS = json.loads(tokenizer_parity.HARD_TEXTS.read_text(encoding="utf-8"))


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


def plain_ids(vocabulary: Path) -> list[list[int]]:
    """The ids of the hard texts, from vocab.json and merges.txt with the end of text."""
    whole = ByteLevelBPETokenizer(str(vocabulary / "vocab.json"), str(vocabulary / "merges.txt"))
    whole.add_special_tokens([END])
    return [whole.encode(text).ids for text in HARD_TEXTS]


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


OTHERS: dict[str, dict[str, Any]] = {
    "Unigram": {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 0},
    "WordLevel": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
    "WordPiece": {"type": "WordPiece", "vocab": {"a": 0, "##b": 1}, "unk_token": "a"},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_tokenizer_json_of_another_kind_is_kept_with_a_warning(
    having: Callable[..., Path], out: Path, kind: str
) -> None:
    source = having("tokenizer.json")
    change_json(source / "tokenizer.json", lambda document: document.update(model=OTHERS[kind]))
    (source / "tokenizer_config.json").write_text("{}")
    (warning,) = tokenizer_files.copy(source, out, CONFIG).warnings
    expected = f"is a {kind} tokenizer, which gpt2-runtime does not read, so there the folder takes token ids only"
    assert warning == f"{source / 'tokenizer.json'} {expected}"
    assert names(out) == {"tokenizer.json", "tokenizer_config.json"}
    assert tokenizer_parity.compare(source, with_config(out)) is None


@pytest.mark.parametrize("file", ["vocab.txt", "spiece.model", "tokenizer.model"])
def test_files_of_another_kind_are_kept_with_a_warning(tmp_path: Path, out: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b"[PAD]\n\xff")
    (warning,) = tokenizer_files.copy(tmp_path, out, CONFIG).warnings
    assert warning.endswith("of a tokenizer that gpt2-runtime does not read, so there the folder takes token ids only")
    assert (out / file).read_bytes() == b"[PAD]\n\xff"


def with_config(folder: Path, **fields: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG | fields))
    return folder


@pytest.mark.parametrize("files", [PAIR, {"tokenizer.json"}], ids=["pair", "json"])
def test_a_byte_order_mark_is_dropped(
    having: Callable[..., Path], out: Path, vocabulary: Path, files: set[str]
) -> None:
    source = having(*files)
    (source / "tokenizer_config.json").write_text('{"pad_token": "<|endoftext|>"}')
    for file in source.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert tokenizer_files.copy(source, out, CONFIG).warnings == ()
    assert not [file.name for file in out.iterdir() if file.read_bytes().startswith(b"\xef\xbb\xbf")]
    assert plain_ids(out) == plain_ids(vocabulary)
    report = tokenizer_parity.compare(source, with_config(out))
    assert report is not None
    assert report["outcome"] == "same ids, same text"


def test_a_tokenizer_that_is_not_the_sources_is_refused_with_the_text(having: Callable[..., Path], out: Path) -> None:
    source = having(*PAIR)
    tokenizer_files.copy(source, out, CONFIG)
    change_json(out / "tokenizer.json", lambda document: document["pre_tokenizer"].update(add_prefix_space=True))
    with pytest.raises(VerificationError, match=r"^the tokenizer differs from the source's in tokenizers .* has ids"):
        tokenizer_parity.compare(source, with_config(out))


def test_the_report_counts_the_texts(having: Callable[..., Path], out: Path) -> None:
    source = having(*PAIR)
    tokenizer_files.copy(source, out, CONFIG)
    report = tokenizer_parity.compare(source, with_config(out))
    assert report is not None
    assert report["references"][0].startswith("tokenizers ")
    assert report["texts"] == len(json.loads(tokenizer_parity.HARD_TEXTS.read_text())) + len(tokenizer_parity.FRAMES)
    assert report["merges_as_trained"] is True
    assert {path.name for path in out.iterdir()} == ALL | {"config.json"}  # the comparison leaves nothing behind


def lowercase(document: dict[str, Any]) -> None:
    document["normalizer"] = {"type": "Lowercase"}


DIGITS = {"type": "Digits", "individual_digits": True}


def digits(document: dict[str, Any]) -> None:
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [DIGITS, document["pre_tokenizer"]]}


@pytest.mark.parametrize("change", [lowercase, digits], ids=["normalizer", "pre_tokenizer"])
def test_parts_that_gpt2tokenizer_ignores_are_left_out_with_a_warning(
    having: Callable[..., Path], out: Path, vocabulary: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    source = having("tokenizer.json")
    change_json(source / "tokenizer.json", change)
    (warning,) = tokenizer_files.copy(source, out, CONFIG).warnings
    assert "was left out, as transformers' GPT2Tokenizer leaves it out" in warning
    ids = [Tokenizer.from_file(str(out / "tokenizer.json")).encode(text).ids for text in HARD_TEXTS]
    assert ids == plain_ids(vocabulary)


@pytest.mark.parametrize("change", [lowercase, digits], ids=["normalizer Lowercase", "pre_tokenizer Sequence"])
def test_parts_that_pretrainedtokenizerfast_keeps_are_kept_with_a_warning(
    having: Callable[..., Path], out: Path, change: Callable[[dict[str, Any]], None], request: pytest.FixtureRequest
) -> None:
    source = having("tokenizer.json")
    change_json(source / "tokenizer.json", change)
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (warning,) = tokenizer_files.copy(source, out, CONFIG).warnings
    assert warning.endswith(
        f"gpt2-runtime does not read {request.node.callspec.id}, so there the folder takes token ids only"
    )
    before, after = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (source, out))
    assert [after.encode(text).ids for text in HARD_TEXTS] == [before.encode(text).ids for text in HARD_TEXTS]


# transformers 5.24.0: AutoTokenizer.from_pretrained(source)(text).input_ids for a tokenizer.json with these beside it.
BESIDE: dict[str, tuple[dict[str, Any], str, list[int]]] = {
    "a named token": ({"tokenizer_config.json": {"pad_token": "<pad>"}}, "a<pad>b", [64, 300, 65]),
    "additional ones": (
        {"tokenizer_config.json": {"additional_special_tokens": ["<u>", "<b>"]}},
        "<u>a<b>b",
        [300, 64, 301, 65],
    ),
    "added tokens": ({"added_tokens.json": {"<u>": 300, "<b>": 301}}, "<u>a<b>b", [300, 64, 301, 65]),
    "the older map": ({"special_tokens_map.json": {"pad_token": {"content": "<pad>"}}}, "a<pad>b", [64, 300, 65]),
}


@pytest.mark.parametrize("name", BESIDE)
def test_files_beside_a_tokenizer_json_count(having: Callable[..., Path], out: Path, name: str) -> None:
    documents, text, ids = BESIDE[name]
    source = having("tokenizer.json")
    for file, document in documents.items():
        (source / file).write_text(json.dumps(document))
    tokenizer_files.copy(source, out, CONFIG)
    assert Tokenizer.from_file(str(out / "tokenizer.json")).encode(text).ids == ids
    assert names(out) == ALL
