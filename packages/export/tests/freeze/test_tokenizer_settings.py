"""A source's tokenizer settings are used or refused; damaged files are not copied.

The project's `tests/test_5_streamed_text.py` shows that they are used as in transformers.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpt2_export.errors import GPT2ExportError, PrecisionError
from gpt2_export.freeze import tokenizer_files
from gpt2_export.verification import eval_texts
from gpt2_model import GPT2Error
from tokenizers import ByteLevelBPETokenizer, Tokenizer

CONFIG = {"vocab_size": 301, "n_positions": 24}
LAST = 300  # the id of </s>
END = "<|endoftext|>"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1355256\n"
FILES = ("vocab.json", "merges.txt", "tokenizer.json")
DOCUMENTS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    out = tmp_path / ".out.partial-1"
    out.mkdir()
    return out


@pytest.fixture
def pair(tmp_path: Path, vocabulary: Path) -> Path:
    """A source with merges.txt and a vocab.json that contains </s>."""
    source = tmp_path / "pair"
    source.mkdir()
    vocab = json.loads((vocabulary / "vocab.json").read_text(encoding="utf-8")) | {"</s>": LAST}
    (source / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (source / "merges.txt").write_bytes((vocabulary / "merges.txt").read_bytes())
    return source


@pytest.fixture
def both(pair: Path) -> Path:
    """The same, with a tokenizer.json."""
    whole = ByteLevelBPETokenizer(str(pair / "vocab.json"), str(pair / "merges.txt"))
    whole.add_special_tokens([END])
    whole.save(str(pair / "tokenizer.json"))
    return pair


def write(folder: Path, **documents: Any) -> None:
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))


def made(source: Path, out: Path, *, warnings: int = 0) -> Tokenizer:
    assert len(tokenizer_files.copy(source, out, CONFIG).warnings) == warnings
    return Tokenizer.from_file(str(out / "tokenizer.json"))


def refusal(source: Path, out: Path) -> str:
    """The one-line message; it names the source's file, not the output folder."""
    with pytest.raises((GPT2ExportError, GPT2Error)) as raised:
        tokenizer_files.copy(source, out, CONFIG)
    message = str(raised.value)
    assert str(source) in message
    assert out.name not in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("file", ["tokenizer_config", "special_tokens_map"])
def test_a_named_token_of_the_vocabulary_is_one_token(pair: Path, out: Path, file: str) -> None:
    write(pair, **{file: {"eos_token": "</s>"}})
    assert made(pair, out).encode("the fox</s>dog").ids.count(LAST) == 1


def test_an_unnamed_token_is_split(pair: Path, out: Path) -> None:
    assert LAST not in made(pair, out).encode("the fox</s>dog").ids


def test_a_prefix_space_is_added_if_the_source_adds_one(pair: Path, out: Path) -> None:
    write(pair, tokenizer_config={"add_prefix_space": True})
    whole = made(pair, out)
    assert whole.encode("fox").ids == whole.encode(" fox").ids


def test_an_added_word_is_not_special(pair: Path, out: Path) -> None:
    token = {"content": "foxy", "special": False, "lstrip": True, "rstrip": False, "normalized": True}
    write(pair, tokenizer_config={"added_tokens_decoder": {"301": token}}, added_tokens={"foxy": 301})
    whole = made(pair, out, warnings=1)
    assert whole.decode(whole.encode(f"the foxy{END}").ids) == "thefoxy"  # lstrip took the space, END is skipped
    (foxy,) = (added for added in whole.get_added_tokens_decoder().values() if added.content == "foxy")
    assert (foxy.special, foxy.lstrip, foxy.rstrip, foxy.normalized) == (False, True, False, True)


def test_an_added_word_of_the_older_file_is_not_special(pair: Path, out: Path) -> None:
    write(pair, added_tokens={"foxy": 301})
    whole = made(pair, out, warnings=1)
    assert whole.decode(whole.encode("foxy").ids) == "foxy"


def test_the_made_config_has_the_tokens_of_the_map(pair: Path, out: Path) -> None:
    write(pair, special_tokens_map={"eos_token": {"content": "</s>", "lstrip": False}, "pad_token": "</s>"})
    made(pair, out)
    document = json.loads((out / "tokenizer_config.json").read_text())
    assert [document[name] for name in ("bos_token", "eos_token", "pad_token")] == [END, "</s>", "</s>"]


@pytest.mark.parametrize(
    ("file", "document", "expected"),
    [
        ("tokenizer_config", {"add_bos_token": True, "bos_token": "To be"}, "'To be' cannot frame each text"),
        ("tokenizer_config", {"split_special_tokens": True}, "split_special_tokens is True; it must be false"),
        ("tokenizer_config", {"add_prefix_space": None}, "add_prefix_space is None; it must be true or false"),
        (
            "tokenizer_config",
            {"eos_token": {"content": "</s>"}},
            "eos_token is {'content': '</s>'}; it must be a token",
        ),
        ("tokenizer_config", {"eos_token": 3}, "eos_token is 3; it must be a token"),
        ("tokenizer_config", {"eos_token": {"__type": "AddedToken", "content": "x", "lstrip": 1}}, "must be a token"),
        ("tokenizer_config", {"extra_special_tokens": "</s>"}, "must be a list"),
        ("tokenizer_config", {"extra_special_tokens": [None]}, "must be a list of tokens"),
        ("tokenizer_config", {"model_specific_special_tokens": ["</s>"]}, "must be names with their tokens"),
        ("tokenizer_config", {"added_tokens_decoder": []}, "added_tokens_decoder is []; it must be ids"),
        ("tokenizer_config", {"added_tokens_decoder": {"x": {"content": "</s>"}}}, "must be ids"),
        ("tokenizer_config", {"added_tokens_decoder": {"301": "foxy"}}, "added_tokens_decoder[301] is 'foxy'"),
        ("tokenizer_config", {"added_tokens_decoder": {"310": {"content": "foxy"}}}, "id 310, after vocab.json"),
        ("special_tokens_map", {"additional_special_tokens": [{"content": "x"}]}, "must be a token"),
        ("special_tokens_map", {"extra_special_tokens": "</s>"}, "must be a list"),
        ("added_tokens", {"foxy": 310}, "'foxy' has id 310, after vocab.json it would be 301"),
        ("added_tokens", {"foxy": "301"}, "ids are not whole numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) and "_" in value and " " not in value else "",
)
def test_a_setting_that_no_tokenizer_json_can_hold_is_refused_by_name(
    pair: Path, out: Path, file: str, document: dict[str, Any], expected: str
) -> None:
    write(pair, **{file: document})
    message = refusal(pair, out)
    assert message.startswith(str(pair / f"{file}.json"))
    assert expected in message


@pytest.mark.parametrize("name", ["CTRLTokenizer", "RobertaTokenizer", "BertTokenizer"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_another_tokenizer_class_is_kept_with_a_warning(both: Path, out: Path, name: str, file: str) -> None:
    if file == "tokenizer_config.json":
        write(both, tokenizer_config={"tokenizer_class": name})
    (warning,) = tokenizer_files.copy(both, out, CONFIG | {"tokenizer_class": name}).warnings
    known = "GPT2Tokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast, TokenizersBackend"
    expected = f"tokenizer_class {name!r} is not read, only {known}; in gpt2-runtime the folder takes token ids only"
    assert warning == f"{both / file}: {expected}"
    assert {path.name: path.read_bytes() for path in both.iterdir()} == {
        path.name: path.read_bytes() for path in out.iterdir()
    }


def test_code_of_the_checkpoint_is_not_run(both: Path, out: Path) -> None:
    write(both, tokenizer_config={"auto_map": {"AutoTokenizer": [None, "code.MyTokenizer"]}})
    (warning,) = tokenizer_files.copy(both, out, CONFIG).warnings
    assert "auto_map names the checkpoint's own code, which is not run" in warning


def test_a_start_token_is_put_before_each_text(pair: Path, out: Path) -> None:
    write(pair, tokenizer_config={"add_bos_token": True, "bos_token": "</s>", "add_eos_token": True})
    whole = made(pair, out)
    end = whole.token_to_id(END)
    assert whole.encode("fox").ids == [LAST, *whole.encode("fox", add_special_tokens=False).ids, end]
    assert "add_bos_token" not in json.loads((out / "tokenizer_config.json").read_text())


def test_a_new_token_without_an_end_of_text_is_refused(pair: Path, out: Path) -> None:
    """transformers would put its own end of text before it."""
    vocab = json.loads((pair / "vocab.json").read_text(encoding="utf-8"))
    vocab["<end>"] = vocab.pop(END)
    (pair / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    write(pair, special_tokens_map={"pad_token": "[PAD]"})
    assert "'[PAD]' has no id" in refusal(pair, out)
    write(pair, special_tokens_map=dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "[PAD]"))
    assert made(pair, out, warnings=1).token_to_id("[PAD]") == 301


def test_added_tokens_beyond_the_model_raise_a_warning(pair: Path, out: Path) -> None:
    write(pair, added_tokens={"[PAD]": 301})
    expected = "the tokenizer has ids up to 301, the model only up to 300: text with those will fail"
    assert tokenizer_files.copy(pair, out, CONFIG).warnings == (expected,)
    assert tokenizer_files.copy(pair, out, CONFIG | {"vocab_size": 302}).warnings == ()


def test_added_tokens_of_a_tokenizer_json_beyond_the_model_raise_a_warning(both: Path, out: Path) -> None:
    whole = Tokenizer.from_file(str(both / "tokenizer.json"))
    whole.add_special_tokens(["[PAD]"])
    whole.save(str(both / "tokenizer.json"))
    (warning,) = tokenizer_files.copy(both, out, CONFIG).warnings
    assert "ids up to 301" in warning


def test_an_added_token_whose_id_the_library_would_not_give_is_refused(both: Path, out: Path) -> None:
    document = json.loads((both / "tokenizer.json").read_text(encoding="utf-8"))
    document["added_tokens"].append(document["added_tokens"][0] | {"content": "[PAD]", "id": 310})
    (both / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    assert "'[PAD]' has id 310, after vocab.json it would be 301" in refusal(both, out)


def test_an_id_that_two_files_give_to_two_tokens_is_refused(both: Path, out: Path) -> None:
    write(both, added_tokens={"[PAD]": 299})
    expected = f"{both / 'added_tokens.json'}: id 299 is '[PAD]', in tokenizer.json it is {END!r}; remove one of them"
    assert refusal(both, out) == expected


@pytest.mark.parametrize("name", [*FILES, *DOCUMENTS, "chat_template.jinja"])
def test_a_git_lfs_pointer_is_refused(both: Path, out: Path, name: str) -> None:
    (both / name).write_text(POINTER)
    message = refusal(both, out)
    assert message.startswith(f"{both / name} is a Git LFS pointer")
    assert "git lfs pull" in message
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("content", ["not json", "\ufeff{", "[]", ""])
@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.json", *DOCUMENTS])
def test_a_file_that_is_not_json_is_refused(both: Path, out: Path, name: str, content: str) -> None:
    (both / name).write_text(content, encoding="utf-8")
    message = refusal(both, out)
    assert message.startswith(f"{both / name} ")
    assert message.endswith("; download it again")
    assert list(out.iterdir()) == []


def test_a_file_that_cannot_be_read_is_refused(both: Path, out: Path) -> None:
    (both / "merges.txt").unlink()
    (both / "merges.txt").mkdir()
    assert "merges.txt is a folder, not a plain file" in refusal(both, out)


@pytest.mark.parametrize("name", [*FILES, *DOCUMENTS, "chat_template.jinja", "vocab.txt"])
def test_a_named_pipe_or_a_broken_link_is_refused_at_once(both: Path, out: Path, name: str) -> None:
    (both / name).unlink(missing_ok=True)
    (both / name).symlink_to("nothing")
    assert refusal(both, out) == f"{both / name} cannot be read: No such file or directory"
    (both / name).unlink()
    os.mkfifo(both / name)
    assert refusal(both, out).startswith(f"{both / name} is a named pipe")


def test_merges_that_are_not_utf_8_are_refused(pair: Path, out: Path) -> None:
    (pair / "merges.txt").write_bytes(b"#version: 0.2\n\xff a\n")
    assert refusal(pair, out) == f"{pair / 'merges.txt'} is not UTF-8 at byte 14; download it again"


@pytest.mark.parametrize(
    ("field", "value"), [("pre_tokenizer", {"type": "None such"}), ("decoder", {"type": "None such"})]
)
def test_a_tokenizer_json_that_the_library_cannot_load_is_refused(
    both: Path, out: Path, field: str, value: object
) -> None:
    document = json.loads((both / "tokenizer.json").read_text(encoding="utf-8")) | {field: value}
    (both / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    assert refusal(both, out).startswith(f"{both / 'tokenizer.json'} cannot be loaded as a tokenizer: ")


def test_invalid_merges_are_refused_by_the_name_of_the_source(pair: Path, out: Path) -> None:
    (pair / "merges.txt").write_text("#version: 0.2\nnot a merge at all\n")
    assert str(pair / "merges.txt") in refusal(pair, out)


def test_a_chat_template_is_kept(both: Path, out: Path) -> None:
    (both / "chat_template.jinja").write_text("{{ messages[0].content }}\n")
    made(both, out)
    assert (out / "chat_template.jinja").read_bytes() == (both / "chat_template.jinja").read_bytes()


def test_a_precision_is_not_measured_with_a_damaged_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")

    def step(*_: Any) -> tuple[np.ndarray, None]:
        return np.zeros((1, 1, 4), np.float32), None

    with pytest.raises(PrecisionError) as raised:
        eval_texts.texts(tmp_path, [], step, vocab_size=4, n_positions=4)
    assert str(raised.value).startswith(f"{tmp_path / 'tokenizer.json'} cannot be loaded as a tokenizer: ")
    assert str(raised.value).endswith("; make the folder again")
