"""Any words for every option and any bytes in every file: an exit status of 0, 1 or 2, and one line about it.

GPT2_RUNTIME_FUZZ=20 tries twenty times as many.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from bounded import LONGEST, bounded_memory
from click.testing import CliRunner
from gpt2_runtime.cli.command import main
from gpt2_runtime.precisions import PRECISIONS
from hypothesis import given, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("GPT2_RUNTIME_FUZZ", "1"))
COMMAND = [sys.executable, "-c", "from gpt2_runtime.cli.command import main; main()"]

# What a process can be given: no NUL, and bytes that are no UTF-8 as surrogates.
WORDS = st.binary(max_size=6).filter(lambda word: 0 not in word).map(os.fsdecode) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6
)
NUMBERS = st.sampled_from(
    ["0", "1", "2", "-1", "1.5", "-0.0", "nan", "inf", "-inf", "1e400", "1e-400", "9" * 400, "9" * 5000]
) | st.sampled_from([10**9, 10**12, 2**31, 2**63, -(2**63)]).map(str)
SMALL = st.integers(0, 6).map(str)
SHARES = st.floats(0.01, 1).map(str)


def mostly(good):
    """Mostly what is right, so that what is wrong with one option does not hide another."""
    return st.integers(0, 9).flatmap(lambda number: good if number > 1 else NUMBERS if number else WORDS)


def options(**strategies):
    """Some options and their values, or flags where there is none."""
    names = {name: "-n" if name == "n" else f"--{name.replace('_', '-')}" for name in strategies}
    one = [
        st.just((names[name],)) if good is None else st.tuples(st.just(names[name]), mostly(good))
        for name, good in strategies.items()
    ]
    return st.lists(st.one_of(one), max_size=4).map(lambda chosen: [word for words in chosen for word in words])


FOLDER = {
    "precision": st.sampled_from(PRECISIONS),
    "provider": st.just("cpu"),
    "threads": st.just("1"),
    "graph": st.sampled_from(["serving", "portable"]),
    "check_hashes": None,
}
CONTINUATION = {
    "max_new_tokens": SMALL,
    "min_new_tokens": SMALL,
    "temperature": SHARES,
    "top_k": SMALL,
    "top_p": SHARES,
    "min_p": SHARES,
    "typical_p": SHARES,
    "repetition_penalty": SHARES,
    "frequency_penalty": SHARES,
    "presence_penalty": SHARES,
    "no_repeat_ngram_size": SMALL,
    "logit_bias": st.tuples(SMALL, SHARES).map("=".join),
    "bad_word": st.text(min_size=1, max_size=3),
    "stop": st.text(min_size=1, max_size=3) | st.just("x" * 10**6),
    "stop_token_id": SMALL,
    "overflow": st.sampled_from(["error", "truncate", "slide"]),
    "logprobs": SMALL,
    "prompt_logprobs": SMALL,
    "n": SMALL,
    "seed": SMALL,
}
GENERATE = options(
    **CONTINUATION,
    **FOLDER,
    num_beams=SMALL,
    length_penalty=SHARES,
    early_stopping=st.sampled_from(["no", "yes", "never"]),
    lookup=None,
    json=None,
    prompt_ids=st.lists(SMALL, min_size=1, max_size=4).map(",".join),
)
BATCH = options(**CONTINUATION, **FOLDER, rows=st.sampled_from(["1", "2", "9"]), prefix_mb=SMALL)
SCORE = options(stride=SMALL, window=SMALL, per_token=None, top=SMALL, json=None, **FOLDER)
EXPLAIN = options(top=SMALL, generate=SMALL, overflow=st.sampled_from(["error", "truncate"]), json=None)
PROMPTS = mostly(st.sampled_from(["To be", "-", "", "x" * 200, "<|endoftext|>"]))
BYTES = st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode(errors="surrogatepass"))
FILES = BYTES | st.sampled_from([b"To be, or not to be", b"x" * 10**6, b"\n" * 10**6, b" " * 10**6 + b"x"])


def fuzzed(examples):
    """Enough to have found what was wrong once; the same ones every time. None may hang."""
    return settings(max_examples=examples * TIMES, derandomize=True, deadline=LONGEST)


def check(code, stdout, stderr, *, lines=1):
    """An exit as it must be; a usage error shows the usage, too."""
    assert code in (0, 1, 2)
    assert "Traceback" not in stderr
    if code == 1:
        assert "unexpected" not in stderr
        assert stderr.startswith("error: ")
        assert len(stderr.splitlines()) <= lines
    if code == 2:
        assert stderr.startswith("Usage: ")
        assert stdout == ""


def run(*arguments, stdin=None, lines=1):
    with bounded_memory():
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    check(result.exit_code, result.stdout, result.stderr, lines=lines)
    return result


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Makes a folder for each example."""
    return lambda: tmp_path_factory.mktemp("fuzz")


@fuzzed(120)
@given(PROMPTS, GENERATE, FILES)
def test_generate(folder, prompt, given, stdin):
    words = ["generate", folder, *given] + ([] if "--prompt-ids" in given else ["--", prompt])
    result = run(*words, stdin=stdin)
    if result.exit_code == 0 and "--json" in given:
        json.loads(result.stdout)


@fuzzed(60)
@given(SCORE, FILES)
def test_score(folder, workplace, given, data):
    file = workplace() / "text"
    data = data[:200]
    file.write_bytes(data)
    result = run("score", folder, file, *given)
    assert file.read_bytes() == data
    if result.exit_code == 0 and ("--json" in given or "--per-token" in given):
        for line in result.stdout.splitlines():
            json.loads(line)


SETTINGS = ("prompt", "token_ids", "id", "n", "seed", "stop", "max_new_tokens", "temperature", "top_k", "logit_bias")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.just(10**400) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
LINES = st.one_of(
    BYTES,
    st.dictionaries(st.sampled_from(SETTINGS), VALUES, max_size=4).map(lambda line: json.dumps(line).encode()),
    st.sampled_from(
        [
            b'{"prompt": "To be", "max_new_tokens": 2}',
            b'\xef\xbb\xbf{"prompt": "To be", "max_new_tokens": 2}',
            b'{"prompt": "To be", "overflow": "slide", "max_new_tokens": 1000000000000}',
            b'{"prompt": "To be", "overflow": "slide", "max_new_tokens": 99}',
            b'{"prompt": "\\ud800", "temperature": 1e999, "top_p": NaN, "logit_bias": {"5": -Infinity}}',
            b"[" * 10**5,
            b'{"stop": ' + b"[" * 10**5,
            b'{"prompt": "' + b"x" * 10**6 + b'"}',
            b'{"prompt": "' + b"x" * 5 * 10**6 + b'"}',
            b'{"prompt": "a", "stop": [' + b'"aaaaaa",' * 10**5 + b'"a"]}',
            b'{"prompt": "a", "stop": ["' + b"a" * 10**6 + b'"]}',
            b'{"prompt": "a", "bad_words": [' + b'"aaaaaa",' * 10**5 + b'"a"]}',
            b'{"token_ids": [' + b"5," * 10**6 + b'5], "overflow": "truncate", "max_new_tokens": 2}',
            b"{" + b",".join(b'"%d":0' % number for number in range(10**5)) + b',"5":1}',
            b'{"prompt": "a", "logit_bias": {' + b",".join(b'"%d":0' % n for n in range(10**5)) + b"}}",
            b'{"prompt": ' + b"[]," * 10**6 + b"1}",
            b'{"prompt": [' + b"[]," * 10**6 + b"1]}",
        ]
    ),
).map(lambda line: line.replace(b"\n", b" ").replace(b"\r", b" "))


@fuzzed(80)
@given(st.lists(LINES, max_size=4), BATCH, BYTES | st.none(), st.booleans())
def test_batch(folder, workplace, lines, given, before, piped):
    place = workplace()
    source, target = place / "in", place / "out"
    data = b"\n".join(lines)
    source.write_bytes(data)
    if before is not None:
        target.write_bytes(before)
    result = run(
        "batch", folder, "-" if piped else source, target, *given, stdin=data if piped else None, lines=len(lines) + 1
    )
    assert source.read_bytes() == data
    if "failed" not in result.stderr:  # it was refused as a whole
        assert (target.read_bytes() if target.exists() else None) == before
    else:
        assert all(json.loads(line)["digest"] for line in target.read_text().splitlines())


@fuzzed(40)
@given(PROMPTS, EXPLAIN, BYTES)
def test_explain(folder, workplace, prompt, given, before):
    page = workplace() / "page.html"
    page.write_bytes(before)
    run("explain", folder, *given, "--html", page, "--", prompt, stdin=before)
    assert page.read_bytes() == before


@fuzzed(40)
@given(options(json=None, load=None, **FOLDER))
def test_inspect(folder, given):
    run("inspect", folder, *given)


@fuzzed(30)
@given(options(context=SMALL, batch=SMALL, rounds=st.just("1"), json=None, graph=FOLDER["graph"]))
def test_bench(folder, quick, given):
    run("bench", folder, "--rounds", "1", *given)


@pytest.fixture(scope="module")
def quick():
    """A bench that is quick: its figures are not looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt2_runtime.diagnostics.roofline.ARRAY_BYTES", 10**6)
        patch.setattr("gpt2_runtime.diagnostics.bench.PAUSE", 0.0)
        yield


@fuzzed(30)
@given(
    st.sampled_from(["generate", "score", "batch", "inspect", "bench", "explain", ""]),
    st.lists(WORDS | NUMBERS, max_size=4),
)
def test_any_words(command, words):
    run(*([command] if command else []), *[word for word in words if word not in ("-h", "--help")])


NAMES = [
    "manifest.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    *(f"model{graph}{kind}.onnx" for graph in ("", "_serving") for kind in ("", "_fp16", "_int8", "_q4")),
    *(f"model{kind}.safetensors" for kind in ("", "_fp16", "_int8", "_q4")),
]


SUFFIXES = {"_fp16": "fp16", "_int8": "int8", "_q4": "int4"}


@st.composite
def damages(draw):
    """A file's name, and what becomes of its bytes: others, or some of them are changed, cut out or doubled."""
    name, kind = draw(st.sampled_from(NAMES)), draw(st.integers(0, 4))
    data, at, length = draw(st.binary(max_size=30)), draw(st.floats(0, 1)), draw(st.integers(0, 40))

    def changed(old):
        start = int(at * len(old))
        new = old[:start] + data + old[start + (len(data) if kind == 1 else length) :]
        return [data, new, old[:start], old + data, new][kind]

    return name, changed


@fuzzed(120)
@given(damages(), st.booleans(), st.sampled_from(["serving", "portable"]))
def test_any_bytes_in_a_folder(folder, workplace, damage, sealed, graph):
    name, changed = damage
    precision = next((kind for suffix, kind in SUFFIXES.items() if suffix in name), "fp32")
    copy = workplace() / "tiny"
    shutil.copytree(folder, copy)
    if name in ("vocab.json", "merges.txt"):
        unlisted(copy, "tokenizer.json")
    data = changed((copy / name).read_bytes())
    (copy / name).write_bytes(data)
    if sealed and name != "manifest.json":  # so that the bytes reach what reads them
        reseal(copy, name)
    for words in (["generate", copy, "To be", "--max-new-tokens", 3], ["inspect", copy]):
        run(*words, "--graph", graph, "--precision", precision, "--threads", 1)
    shutil.rmtree(copy)


@fuzzed(150)
@given(st.data(), st.sampled_from([name for name in NAMES if name.endswith(".json")]), VALUES)
def test_any_value_in_a_folders_json(folder, workplace, data, name, value):
    copy = workplace() / "tiny"
    shutil.copytree(folder, copy)
    if name == "vocab.json":
        unlisted(copy, "tokenizer.json")
    document = at = json.loads((copy / name).read_text())
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.integers(0, 3)) == 0:
            break
        at = at[key]
    if data.draw(st.booleans()) and isinstance(at, dict):
        del at[key]
    else:
        at[key] = value
    (copy / name).write_text(json.dumps(document))
    if name != "manifest.json":
        reseal(copy, name)
    for words in (["generate", copy, "To be", "--max-new-tokens", 3], ["inspect", copy, "--json"], ["inspect", copy]):
        run(*words, "--threads", 1)
    shutil.rmtree(copy)


def reseal(folder, name):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name]["bytes"] = (folder / name).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))


def unlisted(folder, name):
    (folder / name).unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"][name]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "words",
    [
        ["-n", "1000000000", "--json"],
        ["--num-beams", "1000000000"],
        ["--threads", "1000000000"],
        ["--max-new-tokens", "1000000000000", "--temperature", "0"],
        ["--seed", "9" * 400],
        ["--top-k", "9" * 400],
        ["--stop", "x" * 10**5],
        [b"\xff\xfe"],
        ["--graph", b"\xff"],
    ],
    ids=lambda words: str(words[0]),
)
def test_a_process(folder, words):
    done = subprocess.run(
        [*COMMAND, "generate", folder, "To be", *words], capture_output=True, timeout=60, text=True, errors="replace"
    )
    check(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("command", "words", "complaint"),
    [
        ("batch", ["--rows", "1000000000"], "rows is 1000000000, must be an integer from 1 to 1024"),
        ("batch", ["-n", "1000000000"], "n is 1000000000, must be an integer from 1 to 1024"),
        ("generate", ["-n", "1000000000", "--json"], "n is 1000000000, must be an integer from 1 to 1024"),
        ("generate", ["--num-beams", "1000000000"], "num_beams is 1000000000, must be an integer from 1 to 1024"),
        ("bench", ["--batch", "1000000000"], "batch is 1000000000, must be an integer from 1 to 1024"),
        ("bench", ["--rounds", "1000000000"], "rounds is 1000000000, must be an integer from 1 to 1000"),
    ],
)
def test_what_no_memory_or_time_could_do_is_refused_by_its_limit(folder, tmp_path, command, words, complaint):
    source = tmp_path / "in"
    source.write_text('{"prompt": "a"}')
    more = {"batch": [source, tmp_path / "out"], "generate": ["a"]}.get(command, [])
    result = run(command, folder, *more, *words, lines=2)
    assert result.exit_code == 1
    assert complaint in result.stderr
