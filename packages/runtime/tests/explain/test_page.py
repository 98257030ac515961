"""The page is self-contained and well-formed, loads nothing, and shows every token only as text."""

import base64
import json
import os
import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from gpt2_runtime.cli.command import main
from gpt2_runtime.errors import SettingError
from gpt2_runtime.explain import page
from gpt2_runtime.explain.explainer import Explainer, Explanation
from gpt2_runtime.explain.page import packed, render, write

HARD = "</script><script>alert(1)</script> <!-- &amp; {{data}} ' \" \u2028 🙂 日本\n\ttext"
VOID = {"meta", "input", "br", "link", "img"}


class Reader(HTMLParser):
    """Collects elements and the text of scripts, and checks that each element is closed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def explanation(folder: Path) -> Explanation:
    return Explainer.open(folder, threads=1).explain(HARD, top=5, overflow="truncate")


@pytest.fixture(scope="module")
def text(explanation: Explanation) -> str:
    return render(explanation)


def test_the_page_is_well_formed_with_two_scripts_for_any_tokens(text):
    reader = read(text)
    assert [attributes.get("type") for tag, attributes in reader.seen if tag == "script"] == ["application/json", None]
    assert len(reader.scripts) == 2
    assert "<script>alert" not in text


def test_it_has_no_external_references(text):
    reader = read(text)
    written = text.replace(reader.scripts[0], "")  # in which "//" may be base64
    assert not re.search(r"https?:|//\w|url\(|@import|\bfetch\(|XMLHttpRequest|import\(", written)
    names = {name for _, attributes in reader.seen for name in attributes}
    assert names.isdisjoint({"src", "href", "srcset", "action", "onclick", "onload", "style"})


def test_its_policy_allows_only_its_own_script(text):
    policy = next(a["content"] for tag, a in read(text).seen if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    program, style = read(text).scripts[1], text.split("<style>")[1].split("</style>")[0]
    assert page._hash(program) in policy
    assert page._hash(style) in policy


def test_its_numbers_match_the_explanation(text, explanation):
    actual = json.loads(read(text).scripts[0])
    assert tuple(actual["tokens"]) == explanation.token_ids
    L, T, K = explanation.lens_ids.shape
    np.testing.assert_array_equal(np.reshape(actual["lensIds"], (L, T, K)), explanation.lens_ids)
    log_probs = np.reshape(actual["lensLogProbs"], (L, T, K)) / 1000
    np.testing.assert_allclose(log_probs, explanation.lens_log_probs, rtol=0, atol=6e-4)
    following = np.reshape(actual["nextLogProbs"], (L, T - 1)) / 1000
    np.testing.assert_allclose(following[-1], explanation.log_probs[1:], rtol=0, atol=6e-4)
    assert {str(id_) for id_ in (*explanation.token_ids, *explanation.lens_ids.ravel())} == actual["labels"].keys()
    assert "🙂" in actual["completed"].values()


def test_attention_is_stored_as_precisely_as_documented(explanation):
    L, H, T, _ = explanation.attentions.shape
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed(explanation.attentions))), np.uint8)
    actual = np.zeros_like(explanation.attentions)
    actual[..., *np.tril_indices(T)] = (raw.reshape(L, H, -1) / 255) ** 2
    np.testing.assert_allclose(actual, explanation.attentions, rtol=0, atol=0.004)
    small = explanation.attentions < 0.001
    assert np.abs(actual - explanation.attentions)[small].max() < 1.3e-4


def test_the_model_name_is_escaped(explanation):
    text = render(replace(explanation, model="<b>&{{data}}"))
    assert "How &lt;b&gt;&amp;{{data}} reads a text" in text
    read(text)


def test_a_folder_without_a_tokenizer_shows_ids(explanation):
    labels = page.data(replace(explanation, tokenizer=None))["labels"]
    assert all(label == [("code", f"#{id_}")] for id_, label in labels.items())


def test_a_file_is_replaced_only_with_force_and_nothing_is_left_behind(tmp_path):
    path = tmp_path / "out.html"
    write("one", path)
    with pytest.raises(SettingError, match=r"out\.html exists; remove it, choose another name, or pass force=True"):
        write("two", path)
    assert path.read_text() == "one"
    write("two", path, force=True)
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "is a folder; name a file"), ("no/such.html", "folder .*no does not exist; create it first")],
)
def test_a_path_that_cannot_be_written_is_refused(tmp_path, name, message):
    with pytest.raises(SettingError, match=message):
        write("page", tmp_path / name, force=True)


def test_only_regular_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingError, match="is not a regular file; name a file"):
        write("new", tmp_path / "pipe", force=True)
    (tmp_path / "real.html").write_text("old")
    (tmp_path / "link.html").symlink_to("real.html")
    write("new", tmp_path / "link.html", force=True)
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "real.html").read_text() == "new"


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    write("new", tmp_path / ("a" * 255))
    with pytest.raises(SettingError, match="cannot be written: File name too long; name another file"):
        write("new", tmp_path / ("a" * 256))
    assert [path.name for path in tmp_path.iterdir()] == ["a" * 255]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SettingError, match=r"out\.html cannot be written: No space left on device; name another file"):
        write("page", tmp_path / "out.html")
    assert list(tmp_path.iterdir()) == []


def run(*arguments: object, code: int = 0, stdin: bytes = b"") -> str:
    result = CliRunner().invoke(main, ["explain", *map(str, arguments)], input=stdin)
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_writes_a_page(folder, tmp_path):
    path = tmp_path / "out.html"
    output = run(folder, "-", "--html", path, "--top", 3, "--threads", 1, stdin=b"The dog")
    assert re.fullmatch(rf"{path}: \d+ tokens, {path.stat().st_size:,} bytes\n", output)
    read(path.read_text(encoding="utf-8"))
    assert "error: " in run(folder, "The dog", "--html", path, code=1)


def test_the_command_prints_json(folder):
    actual = json.loads(run(folder, "--prompt-ids", "5,6,7", "--json", "--top", 2, "--generate", 2, "--threads", 1))
    assert (actual["prompt_tokens"], len(actual["tokens"])) == (3, 5)


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "config.json"])
@pytest.mark.parametrize("spelling", ["plain", "dots", "symbolic link", "hard link"])
def test_files_of_the_folder_are_never_replaced(damaged, tmp_path, monkeypatch, name, spelling):
    monkeypatch.setattr(Explainer, "open", lambda *_, **__: pytest.fail("something was computed"))
    victim, link = damaged / name, tmp_path / "link.html"
    if spelling == "symbolic link":
        link.symlink_to(victim)
    elif spelling == "hard link":
        link.hardlink_to(victim)
    target = {"plain": victim, "dots": damaged / ".." / damaged.name / name}.get(spelling, link)
    before = victim.read_bytes()
    output = run(damaged, "hi", "--html", target, "--force", code=1)
    assert output == f"error: {target} is a file of the model in {damaged}; name another file\n"
    assert victim.read_bytes() == before


def test_a_new_file_in_the_folder_may_be_written_and_replaced(damaged):
    for options in ([], ["--force"]):
        run(damaged, "--prompt-ids", "5,6", "--html", damaged / "out.html", "--threads", 1, *options)
    read((damaged / "out.html").read_text(encoding="utf-8"))


def test_a_dash_is_not_a_file(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = folder.absolute()
    output = run(folder, "hi", "--html", "-", "--force", code=1)
    assert output == "error: --html is -, must be a file; name one, or give ./- for a file called -\n"
    assert list(tmp_path.iterdir()) == []
    run(folder, "--prompt-ids", "5,6", "--html", "./-", "--threads", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["-"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "Give either --html FILE or --json."),
        (["x", "--html", "f", "--json"], "Give either --html FILE or --json."),
        (["--json"], "Give either PROMPT or --prompt-ids."),
        (["x", "--prompt-ids", "1", "--json"], "Give either PROMPT or --prompt-ids."),
    ],
)
def test_conflicting_arguments_are_refused(folder, arguments, message):
    assert message in run(folder, *arguments, code=2)


def test_a_browser_draws_it_without_errors(text, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the PATH")
    path = tmp_path / "out.html"
    path.write_text(text, encoding="utf-8")
    # The page itself reports success; a browser that hangs reports nothing.
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    options.append(f"--user-data-dir={tmp_path / 'profile'}")
    drawn = subprocess.run([browser, *options, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert 'data-ready="yes"' in drawn.stdout
    assert drawn.stdout.count("<canvas") == 2 * 5 + 1  # two layers of four heads and their mean; the large one
