"""A file of prompts: every line answered once, whatever ended the run before."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from gpt2_runtime import LookupConfig, TextGenerator
from gpt2_runtime.batch_file import file as batch_file
from gpt2_runtime.batch_file.file import Progress, run
from gpt2_runtime.batch_file.line import Defaults
from gpt2_runtime.cli import batch
from gpt2_runtime.cli.command import main
from gpt2_runtime.errors import JobError, SettingError

FULL = Path("/dev/full")
DEFAULTS = Defaults(settings={"max_new_tokens": 8, "stop_token_ids": ()})


@pytest.fixture(scope="module")
def generator(folder):
    return TextGenerator.open(folder, threads=1)


@pytest.fixture
def answers(tmp_path):
    return tmp_path / "answers.jsonl"


def lines(count):
    rng = np.random.default_rng(0)
    documents = [
        {"id": f"line {number}", "token_ids": rng.integers(0, 299, size=rng.integers(1, 40)).tolist()}
        for number in range(count)
    ]
    return [json.dumps(document).encode() + b"\n" for document in documents]


def answers_in(path):
    """Each answer by its id, without the time it took."""
    documents = [json.loads(line) for line in path.read_text().splitlines()]
    for document in documents:
        del document["timings"]
    assert len({document["id"] for document in documents}) == len(documents)
    return {document["id"]: document for document in documents}


def test_each_line_is_answered_as_the_prompt_alone(generator, answers):
    done = run(generator, lines(20), answers, defaults=DEFAULTS)
    assert done == Progress(answered=20, tokens=160)
    for text in lines(20):
        asked = json.loads(text)
        answer = answers_in(answers)[asked["id"]]
        alone = generator.complete(asked["token_ids"], max_new_tokens=8, stop_token_ids=(), seed=answer["seed"])
        assert (answer["token_ids"], answer["text"]) == (list(alone.token_ids), alone.text)


def test_an_answer_with_tokens_of_an_older_form_is_kept(generator, answers):
    asked = [json.dumps({"id": "a", "prompt": "To be", "logprobs": 1}).encode()]
    run(generator, asked, answers, defaults=DEFAULTS)
    older = json.loads(answers.read_text())
    assert list(older["logprobs"][0]) == ["id", "token", "logprob", "top_logprobs"]
    older["logprobs"] = [{"token_id": each["id"], "logprob": each["logprob"], "top": []} for each in older["logprobs"]]
    before = json.dumps(older) + "\n"
    answers.write_text(before)
    assert run(generator, asked, answers, defaults=DEFAULTS) == Progress(kept=1)
    assert answers.read_text() == before


@pytest.mark.parametrize("cut", [0, 1, 5, 30, 1000, 3000, 6000])
def test_what_was_cut_anywhere_is_resumed(generator, answers, cut):
    run(generator, lines(12), answers, defaults=DEFAULTS)
    whole, text = answers_in(answers), answers.read_bytes()
    answers.write_bytes(text[:cut])
    kept = text[:cut].count(b"\n")
    assert run(generator, lines(12), answers, defaults=DEFAULTS) == Progress(
        answered=12 - kept, kept=kept, tokens=8 * (12 - kept)
    )
    assert answers_in(answers) == whole


def test_a_bad_line_is_reported_by_its_number_and_the_others_are_done(generator, answers):
    source = lines(3)
    source[1:1] = [b"\n", b"nonsense\n", b'{"id": "line 0", "prompt": "x"}\n', b'{"token_ids": [300]}\n']
    refused = []
    done = run(generator, source, answers, defaults=DEFAULTS, refused=lambda *line: refused.append(line))
    assert done == Progress(answered=3, failed=3, tokens=24)
    assert sorted(number for number, _ in refused) == [3, 4, 5]
    assert answers_in(answers).keys() == {"line 0", "line 1", "line 2"}
    repaired = [*source[:2], b'{"id": "x", "token_ids": [5]}\n', *source[3:]]
    assert run(generator, repaired, answers, defaults=DEFAULTS) == Progress(answered=1, kept=3, failed=2, tokens=8)


def test_an_answer_to_another_question_is_not_taken_for_this_ones(generator, answers):
    run(generator, lines(3), answers, defaults=DEFAULTS)
    before = answers.read_bytes()
    for defaults in (Defaults(), Defaults(settings=DEFAULTS.settings, seed=1)):
        with pytest.raises(JobError, match=r'answers id "line 0" with another prompt, model or setting than line 1'):
            run(generator, lines(3), answers, defaults=defaults)
    int8 = TextGenerator.open(generator.session.bundle.folder, precision="int8", threads=1)
    with pytest.raises(JobError, match="with another prompt, model or setting"):
        run(int8, lines(3), answers, defaults=DEFAULTS)
    assert answers.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        b"my diary",
        b"my diary\n",
        b'{"id": 1}\n',
        b"5\n",
        b"\xff\xfe",
        b'{"id": "a", "digest": "b"}\nmy diary',
        b'{"id": "a", "prompt": "a question, and the only one"}',
        pytest.param(b'{"id": ' + b"[" * 10**5, id="nested"),
    ],
)
def test_a_file_that_no_batch_wrote_is_left_as_it_is(generator, answers, text):
    answers.write_bytes(text)
    with pytest.raises(
        JobError, match=r"has a line \d not written by a batch; name another OUTPUT, or delete this one"
    ):
        run(generator, lines(1), answers, defaults=DEFAULTS)
    assert answers.read_bytes() == text


def test_an_output_that_cannot_be_written_is_refused(generator, tmp_path):
    for target in (tmp_path, Path(os.devnull)):
        with pytest.raises(JobError, match="is not a regular file"):
            run(generator, lines(1), target, defaults=DEFAULTS)
    with pytest.raises(JobError, match="cannot be written: No such file or directory"):
        run(generator, lines(1), tmp_path / "none" / "out", defaults=DEFAULTS)
    with pytest.raises(JobError, match="cannot be written: File name too long"):
        run(generator, lines(1), tmp_path / ("x" * 5000), defaults=DEFAULTS)


@pytest.mark.parametrize("before", [None, b'{"id": "cut'])
def test_rows_out_of_range_are_refused_before_the_file_is_touched(generator, answers, before):
    if before is not None:
        answers.write_bytes(before)
    with pytest.raises(SettingError, match="rows is 0"):
        run(generator, lines(1), answers, defaults=DEFAULTS, rows=0)
    assert (answers.read_bytes() if answers.exists() else None) == before


def test_a_value_of_another_type_is_its_lines_error_alone(generator, answers):
    values = [("stop", None), ("stop", 5), ("bad_words", {}), ("n", "2"), ("overflow", []), ("stop_token_ids", "a")]
    source = [json.dumps({"prompt": "a", name: value}).encode() for name, value in values]
    refused = []
    done = run(
        generator,
        [*source, *lines(1)],
        answers,
        defaults=DEFAULTS,
        refused=lambda line, error: refused.append(str(error)),
    )
    assert (done.answered, done.failed) == (1, len(values))
    assert [message.split(" is ")[0] for message in refused] == [name for name, _ in values]


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_a_full_disk_is_reported_in_one_line():
    with (
        FULL.open("wb", buffering=0) as file,
        pytest.raises(JobError, match="cannot be written: No space left on device"),
    ):
        batch_file._write(file, FULL, {"id": 1})


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_disk_that_fills_up_blames_the_output_and_loses_nothing(folder, tmp_path, answers):
    source = tmp_path / "prompts.jsonl"
    source.write_bytes(b"".join(lines(12)))
    limited = "import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); "
    limited += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "  # the write fails instead, as it does on a full disk
    program = "from gpt2_runtime.cli.command import main; main()"
    command = ["batch", str(folder), str(source), str(answers), "--threads", "1", "--max-new-tokens", "8"]
    # -B: the limit is that of the bytecode too, which Python cuts in silence.
    failed = subprocess.run([sys.executable, "-B", "-c", limited + program, *command], capture_output=True)
    assert failed.returncode == 1
    last = failed.stderr.decode().splitlines()[-1]
    assert last == f"error: {answers} cannot be written: File too large; resume with the same command"
    assert answers.stat().st_size == 3000  # the last line is cut
    subprocess.run([sys.executable, "-c", program, *command], capture_output=True, check=True)
    assert len(answers_in(answers)) == 12


def test_an_input_that_fails_is_blamed_itself(folder, tmp_path, answers):
    with pytest.raises(JobError, match="cannot be read: Is a directory"), batch._lines(str(tmp_path)) as _:
        pass
    refused = CliRunner().invoke(main, ["batch", str(folder), str(tmp_path), str(answers)])
    assert refused.stderr == f"error: {tmp_path} cannot be read: Is a directory\n"


@pytest.mark.parametrize(
    "name", ["generation_config.json", "tokenizer.json", "model_serving.onnx", "model.safetensors"]
)
def test_an_answer_of_another_folder_is_not_taken_for_this_ones(generator, answers, name):
    run(generator, lines(1), answers, defaults=DEFAULTS)
    bundle = generator.session.bundle
    files = dict(bundle.files) | {name: replace(bundle.files[name], sha256="0" * 64)}
    other = replace(generator, session=replace(generator.session, bundle=replace(bundle, files=files)))
    with pytest.raises(JobError, match="with another prompt, model or setting"):
        run(other, lines(1), answers, defaults=DEFAULTS)


def test_lookup_is_another_question_only_where_it_may_change_a_text(folder, generator, answers):
    run(generator, lines(2), answers, defaults=DEFAULTS)
    assert run(generator, lines(2), answers, defaults=DEFAULTS, lookup=LookupConfig()).kept == 2
    answers.unlink()
    single = TextGenerator.open(folder, threads=1, precision="int8", fast_single=True)
    run(single, lines(2), answers, defaults=DEFAULTS)
    with pytest.raises(JobError, match="with another prompt, model or setting"):
        run(single, lines(2), answers, defaults=DEFAULTS, lookup=LookupConfig())


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_two_runs_do_not_write_one_file(generator, answers):
    def meanwhile():
        yield lines(1)[0]
        with pytest.raises(JobError, match="is being written by another process"):
            run(generator, lines(1), answers, defaults=DEFAULTS)

    run(generator, meanwhile(), answers, defaults=DEFAULTS)
    assert answers_in(answers).keys() == {"line 0"}


class TestCommand:
    def invoke(self, *arguments, stdin=None):
        return CliRunner().invoke(main, ["batch", *map(str, arguments)], input=stdin)

    def test_it_answers_a_file_and_standard_input(self, folder, tmp_path):
        source = tmp_path / "prompts.jsonl"
        source.write_bytes(b"".join(lines(4)))
        options = ["--max-new-tokens", 5, "--rows", 2, "--threads", 1]
        result = self.invoke(folder, source, tmp_path / "a", *options)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.startswith("4 answered, ")
        assert self.invoke(folder, "-", tmp_path / "b", *options, stdin=source.read_bytes()).exit_code == 0
        assert answers_in(tmp_path / "a") == answers_in(tmp_path / "b")
        again = self.invoke(folder, source, tmp_path / "a", *options)
        assert (again.exit_code, again.stderr) == (0, "0 answered, 0 tokens, 0 tokens/s; 4 already done, 0 failed\n")

    def test_a_bad_line_makes_the_status_1(self, folder, tmp_path):
        source = tmp_path / "prompts.jsonl"
        source.write_bytes(lines(1)[0] + b'{"prompt": "a", "temperature": -1}\n')
        result = self.invoke(folder, source, tmp_path / "a", "--max-new-tokens", 2)
        assert result.exit_code == 1
        first, last = result.stderr.splitlines()
        assert first == f"error: {source} line 2: temperature is -1, must be a number of at least 0; 0 is greedy"
        assert last.endswith("0 already done, 1 failed")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--temperature", -1], "temperature is -1.0, must be"),
            (["--rows", 0], "rows is 0, must be an integer from 1 to 1024"),
            (["--graph", "portable"], "rows is 8, the portable graph"),
        ],
    )
    def test_options_out_of_range_are_refused_in_one_line(self, folder, tmp_path, options, message):
        (tmp_path / "p").write_bytes(lines(1)[0])
        result = self.invoke(folder, tmp_path / "p", tmp_path / "a", *options)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {message}")
        assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize("given", ["file", "link", "standard input"])
    def test_the_input_is_never_the_output(self, folder, tmp_path, given):
        source, link = tmp_path / "prompts.jsonl", tmp_path / "link"
        cut = b'{"id": "a", "prompt": "To b'  # as a line of answers that was cut
        source.write_bytes(cut)
        link.symlink_to(source)
        program = "from gpt2_runtime.cli.command import main; main()"
        name = "-" if given == "standard input" else link if given == "link" else source
        with source.open("rb") as stdin:
            command = [sys.executable, "-c", program, "batch", str(folder), str(name), str(source)]
            result = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
        assert result.stderr == f"error: OUTPUT is {source}, the same file as INPUT; name another OUTPUT\n"
        assert (result.returncode, source.read_bytes()) == (1, cut)

    @pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "../tiny/empty.txt"])
    def test_no_file_of_the_folder_is_the_output(self, damaged, tmp_path, edit, name):
        (damaged / "empty.txt").touch()
        edit(damaged / "manifest.json", lambda m: m["files"].update({"empty.txt": {"bytes": 0, "sha256": "0" * 64}}))
        before = (damaged / name).read_bytes()
        (tmp_path / "p").write_bytes(lines(1)[0])
        result = self.invoke(damaged, tmp_path / "p", damaged / name)
        complaint = f"{damaged / name} is a file of the model in {damaged}; name another OUTPUT"
        assert (result.exit_code, result.stderr) == (1, f"error: {complaint}\n")
        assert (damaged / name).read_bytes() == before

    def test_a_dash_cannot_be_written(self, folder, tmp_path, monkeypatch):
        (tmp_path / "p").write_bytes(lines(1)[0])
        folder = folder.absolute()
        monkeypatch.chdir(tmp_path)
        result = self.invoke(folder, "p", "-")
        complaint = "error: OUTPUT is -, must be a file; name one, or give ./- for a file called -\n"
        assert (result.exit_code, result.stderr) == (1, complaint)
        assert not Path("-").exists()
        assert self.invoke(folder, "p", "./-", "--max-new-tokens", 2, "--threads", 1).exit_code == 0
        assert Path("-").exists()

    def test_an_input_that_is_not_there_is_refused(self, folder, tmp_path):
        result = self.invoke(folder, tmp_path / "none", tmp_path / "a")
        assert result.stderr == f"error: {tmp_path / 'none'} cannot be read: No such file or directory\n"
        assert not (tmp_path / "a").exists()


@pytest.mark.once
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_run_that_is_killed_is_resumed(folder, generator, tmp_path, answers):
    """kill -9 in the middle of 1,000 prompts, twice; then the same command to its end."""
    source = tmp_path / "prompts.jsonl"
    source.write_bytes(b"".join(lines(1000)))
    program = "from gpt2_runtime.cli.command import main; main()"
    command = [sys.executable, "-c", program, "batch", str(folder), str(source), str(answers), "--threads", "1"]
    command += ["--max-new-tokens", "8"]
    counts = [0]
    for _ in range(2):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            size = answers.stat().st_size if answers.exists() else 0
            while not answers.exists() or answers.stat().st_size < size + 20_000:
                assert process.poll() is None
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        counts.append(answers.read_bytes().count(b"\n"))
    assert 0 < counts[1] < counts[2] < 1000
    finished = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    assert f"{counts[2]} already done, 0 failed" in finished.stderr
    run(generator, lines(1000), tmp_path / "uninterrupted", defaults=Defaults(settings={"max_new_tokens": 8}))
    found, wanted = answers_in(answers), answers_in(tmp_path / "uninterrupted")
    for document in (*found.values(), *wanted.values()):
        del document["digest"]  # the command's options say more than these defaults, and the same
    assert len(found) == 1000
    assert found == wanted
