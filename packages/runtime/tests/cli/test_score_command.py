"""`gpt2-runtime score` as a user types it."""

import json
import math
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from gpt2_runtime import Session, Tokenizer
from gpt2_runtime.cli.command import main
from gpt2_runtime.scoring.perplexity import perplexity, score_windows

TEXT = "The quick brown fox doesn't mind the dog.\r\nNaïve café, 🙂 " * 4


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


def run(*arguments, stdin=None):
    return CliRunner().invoke(main, ["score", *map(str, arguments)], input=stdin)


def refused(*arguments, stdin=None):
    """The one line that a refusal prints on stderr."""
    result = run(*arguments, stdin=stdin)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    return result.stderr


def test_json_is_what_the_library_finds(folder, text):
    result = run(folder, text, "--json", "--stride", 16, "--window", 48)
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    tokenizer = Tokenizer.open(folder)
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT  # \r\n and all
    expected = perplexity(Session.open(folder), ids, window=48, stride=16)
    assert found.pop("tokens_per_second") > 0
    assert found == {
        "tokens": len(ids),
        "scored_tokens": len(ids) - 1,
        "log_likelihood": expected.log_likelihood,
        "perplexity": expected.perplexity,
        "token_perplexity": expected.token_perplexity,
        "bits_per_byte": -expected.log_likelihood / math.log(2) / (len(TEXT.encode()) - 3),  # all but "The"
        "windows": expected.windows,
        "window": 48,
        "stride": 16,
    }


def test_the_lines_are_for_people(folder, text):
    found = json.loads(run(folder, text, "--json").stdout)
    lines = run(folder, text).stdout.splitlines()
    assert lines[0] == f"tokens          {found['tokens']}, {found['scored_tokens']} of them scored"
    assert lines[1] == f"windows         {found['windows']} of 64, one every 32 tokens"
    assert f"{found['perplexity']:,.4f}; {found['token_perplexity']:,.4f} if each token counts once" in lines[3]


def test_standard_input_is_read_as_it_is(folder, text):
    named = json.loads(run(folder, text, "--json").stdout)
    piped = json.loads(run(folder, "-", "--json", stdin=TEXT.encode()).stdout)
    assert piped["log_likelihood"] == named["log_likelihood"]


def test_a_line_for_each_token_and_then_the_report(folder, text):
    *lines, report = map(json.loads, run(folder, text, "--per-token", "--top", 2, "--stride", 64).stdout.splitlines())
    session, tokenizer = Session.open(folder), Tokenizer.open(folder)
    ids = tokenizer.encode(TEXT)
    scored = [token for _, scores in score_windows(session, ids, stride=64, top=2) for token in scores]
    assert [(line["id"], line["logprob"], line["rank"]) for line in lines] == [
        (t.id, t.logprob, t.rank) for t in scored
    ]
    assert [line["id"] for line in lines] == ids
    assert lines[0] == {"id": ids[0], "token": "The", "logprob": None, "rank": None, "top_logprobs": []}
    assert [(top["id"], top["logprob"]) for top in lines[1]["top_logprobs"]] == list(scored[1].top_logprobs)
    assert lines[1]["top_logprobs"][0]["token"] == tokenizer.decode([scored[1].top_logprobs[0][0]])
    assert report["log_likelihood"] == math.fsum(line["logprob"] for line in lines if line["logprob"] is not None)


def test_the_end_of_text_token_may_be_spelled_out(folder):
    lines = run(folder, "-", "--per-token", stdin="a<|endoftext|>b").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines[:-1]][1] == 299


def test_graph_and_precision_are_the_ones_requested(folder, text):
    def likelihood(*options):
        return json.loads(run(folder, text, "--json", *options).stdout)["log_likelihood"]

    exact = likelihood()
    assert likelihood("--graph", "portable") == pytest.approx(exact, abs=1e-3)
    assert likelihood("--precision", "int8") != pytest.approx(exact, abs=1e-3)
    assert likelihood("--precision", "int8") == pytest.approx(exact, rel=0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal of POSIX")
def test_a_terminal_sees_a_bar_on_stderr_and_a_file_none(folder, text):
    import pty

    ours, theirs = pty.openpty()
    program = [
        sys.executable,
        "-c",
        "from gpt2_runtime.cli.command import main; main()",
        "score",
        str(folder),
        str(text),
    ]
    shown = subprocess.run(program, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)
    os.close(theirs)
    bar = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "\r\033[K    score [" in bar
    assert "tokens/s" in bar
    assert "\r\033[Kscore: done in " in bar
    assert shown.stdout.startswith("tokens ")
    assert subprocess.run(program, capture_output=True, check=True).stderr == b""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stride", "0"], "error: stride is 0, must be an integer from 1 to 64, the window\n"),
        (["--stride", "65"], "error: stride is 65, must be an integer from 1 to 64, the window\n"),
        (["--window", "1"], "error: window is 1, must be an integer from 2 to 64, which the model reads\n"),
        (["--window", "65"], "error: window is 65, must be an integer from 2 to 64, which the model reads\n"),
        (["--per-token", "--top", "301"], "error: top is 301, must be an integer from 0 to 300\n"),
        (["--threads", "0"], "error: threads is 0, must be an integer from 1 to 1024\n"),
    ],
)
def test_a_setting_out_of_range_is_one_line(folder, text, options, message):
    assert refused(folder, text, *options) == message


@pytest.mark.parametrize(("content", "count"), [(b"", 0), (b"T", 1)])
def test_a_text_without_anything_to_score_is_refused(folder, tmp_path, content, count):
    (tmp_path / "short").write_bytes(content)
    tokens = "1 token" if count == 1 else f"{count} tokens"
    complaint = f"has {tokens}, must have at least 2; the first token has no score, since nothing comes before it\n"
    assert refused(folder, tmp_path / "short") == f"error: {tmp_path}/short {complaint}"
    assert refused(folder, "-", stdin=content) == f"error: standard input {complaint}"


def test_bytes_that_are_no_text_are_refused(folder, tmp_path):
    (tmp_path / "latin").write_bytes(b"na\xefve")
    complaint = "is not UTF-8 at byte 2; convert it, e.g. with iconv\n"
    assert refused(folder, tmp_path / "latin") == f"error: {tmp_path}/latin {complaint}"
    assert refused(folder, "-", stdin=b"na\xefve") == f"error: standard input {complaint}"


def test_a_file_that_cannot_be_read_is_refused(folder, tmp_path):
    remedy = "name a text file, or - for standard input\n"
    assert refused(folder, tmp_path / "x") == f"error: {tmp_path}/x cannot be read: no such file or directory; {remedy}"
    assert refused(folder, tmp_path) == f"error: {tmp_path} cannot be read: is a directory; {remedy}"


def test_a_folder_without_tokenizer_is_refused(damaged, edit, text):
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        edit(damaged / "manifest.json", lambda m, name=name: m["files"].pop(name))
    assert "lists no tokenizer files; pass token ids" in refused(damaged, text)


def test_a_folder_that_is_not_there_is_refused(text):
    assert refused("nowhere", text).startswith("error: nowhere does not exist; name a folder")


@pytest.mark.parametrize("options", [["--top", "2"], ["--stride", "x"], ["extra"]])
def test_a_usage_error_is_code_2(folder, text, options):
    assert run(folder, text, *options).exit_code == 2
