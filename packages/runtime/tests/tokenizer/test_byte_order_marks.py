"""A byte order mark is dropped at the start of a file or stream, and kept within a text."""

import codecs
import json

import pytest
from click.testing import CliRunner
from gpt2_runtime import TextGenerator
from gpt2_runtime.batch_file.file import lines_of, run
from gpt2_runtime.batch_file.line import Defaults, read
from gpt2_runtime.cli.command import main
from gpt2_runtime.errors import JobError
from gpt2_runtime.folder.json_object import read_text

MARK = codecs.BOM_UTF8
DEFAULTS = Defaults(settings={"max_new_tokens": 2})


@pytest.fixture(scope="module")
def generator(folder):
    return TextGenerator.open(folder, threads=1)


def command(*words, stdin=None):
    return CliRunner().invoke(main, [str(word) for word in words], input=stdin)


def answers(path):
    return [
        (answer["id"], answer["token_ids"], answer["digest"])
        for answer in map(json.loads, path.read_text().splitlines())
    ]


@pytest.mark.parametrize(
    "data",
    [
        MARK + b'{"prompt":"hi"}\r\n{"prompt":"ho"}\r\n',
        MARK + b'{"prompt":"hi"}\n' + MARK + b'{"prompt":"ho"}',  # two files, joined
    ],
)
def test_a_mark_does_not_change_a_batch_file(generator, tmp_path, data):
    (tmp_path / "marked").write_bytes(data)
    (tmp_path / "plain").write_bytes(data.replace(MARK, b""))
    for name in ("marked", "plain"):
        with (tmp_path / name).open("rb") as file:
            done = run(generator, lines_of(file), tmp_path / f"{name}.out", defaults=DEFAULTS)
        assert (done.answered, done.failed) == (2, 0)
    assert answers(tmp_path / "marked.out") == answers(tmp_path / "plain.out")


def test_a_line_with_only_a_mark_is_empty(generator, tmp_path):
    done = run(generator, [MARK + b"\r\n", MARK], tmp_path / "out", defaults=DEFAULTS)
    assert done.lines == 0


def test_a_mark_within_a_text_is_kept():
    assert read(b'{"prompt":"' + MARK + b'hi"}', 1, DEFAULTS).prompt.prompt == "\ufeffhi"
    assert read(rb'{"prompt":"\ufeffhi"}', 1, DEFAULTS).prompt.prompt == "\ufeffhi"
    with pytest.raises(JobError, match="is not readable JSON"):
        read(b'{"prompt":' + MARK + b'"hi"}', 1, DEFAULTS)
    with pytest.raises(JobError, match="is not readable JSON"):
        read(MARK * 2 + b'{"prompt":"hi"}', 1, DEFAULTS)


def test_an_invalid_byte_is_counted_from_the_start_of_the_line():
    with pytest.raises(JobError, match="is not UTF-8 at byte 15"):
        read(MARK + b'{"prompt": "\xff"}', 1, DEFAULTS)


@pytest.mark.parametrize("words", [["generate", "{}", "-", "--json"], ["explain", "{}", "-", "--json"]])
def test_a_mark_does_not_change_a_prompt_from_standard_input(folder, words):
    words = [word.format(folder) for word in words]
    plain, marked = (json.loads(command(*words, stdin=data + b"To be").stdout) for data in (b"", MARK))
    ids = "prompt_token_ids" if words[0] == "generate" else "prompt_tokens"
    assert plain[ids] == marked[ids]


def test_a_mark_does_not_change_a_scored_text(folder, tmp_path):
    reports = []
    for name, start in (("plain", b""), ("marked", MARK)):
        (tmp_path / name).write_bytes(start + b"To be, or not to be")
        results = [
            command("score", folder, tmp_path / name, "--json"),
            command("score", folder, "-", "--json", stdin=start + b"To be, or not to be"),
        ]
        reports += [{**json.loads(result.stdout), "tokens_per_second": 0} for result in results]
    assert all(report == reports[0] for report in reports)


NAMES = ["config.json", "generation_config.json", "manifest.json", "tokenizer.json", "vocab.json", "merges.txt"]


@pytest.mark.parametrize("name", NAMES)
def test_a_mark_does_not_change_a_file_of_the_folder(folder, damaged, edit, name):
    if name in ("vocab.json", "merges.txt"):
        edit(damaged / "manifest.json", lambda manifest: manifest["files"].pop("tokenizer.json"))
        (damaged / "tokenizer.json").unlink()
    (damaged / name).write_bytes(MARK + (folder / name).read_bytes())
    assert read_text(damaged / name) == (folder / name).read_text(encoding="utf-8")
    if name != "manifest.json":
        edit(damaged / "manifest.json", lambda m: m["files"][name].update(bytes=(damaged / name).stat().st_size))
    opened = TextGenerator.open(damaged, threads=1)
    assert opened.tokenizer.encode("To be, or not") == TextGenerator.open(folder, threads=1).tokenizer.encode(
        "To be, or not"
    )


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_as_powershell_writes_it_is_refused_with_a_remedy(folder, tmp_path, encoding):
    (tmp_path / "in").write_bytes('\ufeff{"prompt":"hi"}\r\n'.encode(encoding))
    remedy = "is UTF-16, must be UTF-8; convert it, e.g. with iconv -f UTF-16 -t UTF-8\n"
    refused = command("batch", folder, tmp_path / "in", tmp_path / "out")
    assert (refused.exit_code, refused.stderr) == (1, f"error: {tmp_path}/in: file {remedy}")
    assert not (tmp_path / "out").exists()
    refused = command("score", folder, tmp_path / "in")
    assert (refused.exit_code, refused.stderr) == (1, f"error: {tmp_path}/in {remedy}")
