"""A folder with an unsupported tokenizer takes token ids in every command, and refuses text with one line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from gpt2_runtime import TextGenerator
from gpt2_runtime.cli.command import main
from gpt2_runtime.errors import TokenizerError

MODELS = {
    "WordPiece": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1, "##b": 2}},
    "WordPiece of an old file": {"unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1, "##b": 2}},
    "WordLevel": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1}},
    "Unigram": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]},
}
CHANGES = {name: (lambda t, model=model: t.update(model=model)) for name, model in MODELS.items()} | {
    "split digits": lambda t: t.update(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Digits"}, t["pre_tokenizer"]]}
    ),
    "Metaspace": lambda t: t.update(pre_tokenizer={"type": "Metaspace", "replacement": "▁"}),
    "no pre-tokenizer": lambda t: t.update(pre_tokenizer=None),
    "Lowercase": lambda t: t.update(normalizer={"type": "Lowercase"}),
    "single word": lambda t: t["added_tokens"][0].update(single_word=True),
}
FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
REMEDY = "pass token ids (--prompt-ids 464,3290), without stop strings or bad words"


def without(folder: Path, *names: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in names:
        (folder / name).unlink()
        del manifest["files"][name]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(params=[*CHANGES, "vocab.txt"])
def unread(request, damaged, edit):
    if request.param == "vocab.txt":
        without(damaged, *FILES)
        (damaged / "vocab.txt").write_text("[UNK]\na\n##b\n")
    else:
        edit(damaged / "tokenizer.json", CHANGES[request.param])
    return damaged


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("unread", ["WordPiece", "split digits", "vocab.txt"], indirect=True)
def test_every_command_takes_ids(unread, tmp_path):
    ids = ["--prompt-ids", "1,2,3"]
    generated = run("generate", unread, *ids, "--max-new-tokens", "2", "--temperature", "0", "--json")
    assert generated.exit_code == 0, generated.output
    expected = json.loads(generated.stdout)["token_ids"]
    assert (json.loads(generated.stdout)["text"], len(expected)) == (None, 2)
    (tmp_path / "in.jsonl").write_text('{"token_ids": [1, 2, 3], "max_new_tokens": 2, "temperature": 0}\n')
    assert run("batch", unread, tmp_path / "in.jsonl", tmp_path / "out.jsonl").exit_code == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["token_ids"] == expected
    explained = run("explain", unread, *ids, "--json")
    assert [token["token"] for token in json.loads(explained.stdout)["tokens"]] == [None] * 3
    assert run("explain", unread, *ids, "--html", tmp_path / "page.html").exit_code == 0
    assert run("bench", unread, "--context", "2", "--batch", "1", "--rounds", "1", "--json").exit_code == 0
    beams = run("generate", unread, *ids, "--max-new-tokens", "2", "--num-beams", "2", "--json")
    assert beams.exit_code == 0
    inspected = run("inspect", unread)
    (line,) = (line for line in inspected.stdout.splitlines() if line.startswith("tokenizer"))
    assert "token ids only: " in line
    assert json.loads(run("inspect", unread, "--json").stdout)["tokenizer"] is None


@pytest.mark.parametrize("unread", ["Unigram", "Lowercase", "vocab.txt"], indirect=True)
def test_text_is_refused_with_one_line_that_says_why(unread, tmp_path):
    (tmp_path / "text").write_text("To be")
    (tmp_path / "in.jsonl").write_text('{"prompt": "To be"}\n')
    for arguments in (
        ("generate", unread, "To be"),
        ("generate", unread, "--prompt-ids", "1,2", "--stop", "x"),
        ("explain", unread, "To be", "--json"),
        ("score", unread, tmp_path / "text"),
        ("batch", unread, tmp_path / "in.jsonl", tmp_path / "out.jsonl"),
    ):
        refused = run(*arguments)
        assert refused.exit_code == 1
        line = refused.stderr.splitlines()[0]
        assert line.startswith("error: ")
        assert line.endswith(REMEDY), line


def test_python_takes_ids_and_refuses_text(unread):
    generator = TextGenerator.open(unread, threads=1)
    assert generator.tokenizer is None
    assert len(generator.complete([1, 2], max_new_tokens=2).token_ids) == 2
    with pytest.raises(TokenizerError, match="pass token ids"):
        generator.complete("To be")
