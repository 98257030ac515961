"""The command as a user types it: what it prints, where, and how it exits."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from gpt2_runtime import SamplingConfig, TextGenerator
from gpt2_runtime.cli.command import main

COMMAND = [sys.executable, "-c", "from gpt2_runtime.cli.command import main; main()"]


def run(*arguments, stdin=None):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def refused(*arguments, stdin=None, code=1):
    """The one line that a refusal prints on stderr."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == code
    assert result.stdout == ""
    if code == 1:
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def generator(folder):
    return TextGenerator.open(folder, threads=1)


def test_text_is_streamed_and_ends_with_a_newline(folder, generator):
    result = run("generate", folder, "The dog", "--seed", 1, "--max-new-tokens", 20)
    assert result.exit_code == 0
    assert result.stdout == generator.complete("The dog", seed=1, max_new_tokens=20).text + "\n"
    assert result.stderr == ""


def test_json_is_one_object(folder, generator):
    options = ["--seed", 4, "--max-new-tokens", 20, "--temperature", 0.9, "--top-k", 50, "--top-p", 0.95]
    found = json.loads(run("generate", folder, "The dog", "--json", *options).stdout)
    sampling = SamplingConfig(temperature=0.9, top_k=50, top_p=0.95)
    expected = generator.complete("The dog", seed=4, max_new_tokens=20, sampling=sampling)
    names = {"text", "token_ids", "prompt_token_ids", "finish_reason", "timings", "seed"}
    assert found.keys() == names | {"truncated", "slides", "reused", "logprobs", "prompt_logprobs"}
    assert found["token_ids"] == list(expected.token_ids)
    assert found["prompt_token_ids"] == generator.tokenizer.encode("The dog")
    assert (found["text"], found["finish_reason"], found["seed"]) == (expected.text, expected.finish_reason, 4)
    timings = found["timings"]
    measures = {"first_token_seconds", "decode_seconds", "decode_tokens", "tokens_per_second"}
    assert timings.keys() == measures | {"draft_tokens", "accepted_tokens"}
    assert timings["decode_tokens"] == expected.timings.decode_tokens


def test_several_continuations_are_those_of_their_seeds(folder, generator):
    found = json.loads(run("generate", folder, "The dog", "--json", "-n", 3, "--seed", 4, "--max-new-tokens", 9).stdout)
    texts = [generator.complete("The dog", seed=seed, max_new_tokens=9).text for seed in (4, 5, 6)]
    assert [each["text"] for each in found["completions"]] == texts


def test_controls_reach_the_sampler(folder, generator):
    sampling = SamplingConfig(
        temperature=0.7,
        min_p=0.01,
        typical_p=0.9,
        repetition_penalty=1.2,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        no_repeat_ngram_size=3,
        logit_bias={7: 4.0, 8: float("-inf")},
        min_new_tokens=5,
    )
    given = ["--temperature", 0.7, "--min-p", 0.01, "--typical-p", 0.9, "--repetition-penalty", 1.2]
    given += ["--frequency-penalty", 0.1, "--presence-penalty", 0.2, "--no-repeat-ngram-size", 3]
    given += ["--logit-bias", "7=4", "--logit-bias", "8=-inf", "--min-new-tokens", 5]
    given += ["--bad-word", "x", "--stop-token-id", 9, "--overflow", "slide", "--logprobs", 2]
    found = json.loads(run("generate", folder, "The dog", "--json", "--seed", 1, *given, "--max-new-tokens", 90).stdout)
    settings = {"bad_words": ["x"], "stop_token_ids": [9], "overflow": "slide", "logprobs": 2}
    expected = generator.complete("The dog", seed=1, max_new_tokens=90, sampling=sampling, **settings)
    assert found["text"] == expected.text
    assert found["slides"] == expected.slides > 0
    # The command reads weights that are not packed: other last bits.
    assert [each["logprob"] for each in found["logprobs"]] == pytest.approx(
        [each.logprob for each in expected.logprobs], abs=1e-4
    )
    assert [[top["id"] for top in each["top_logprobs"]] for each in found["logprobs"]] == [
        [id_ for id_, _ in each.top_logprobs] for each in expected.logprobs
    ]
    assert [each["token"] for each in found["logprobs"]] == [
        generator.tokenizer.decode([each.id]) for each in expected.logprobs
    ]


def test_beams_are_those_of_the_search(folder, generator):
    options = ["--num-beams", 4, "--length-penalty", 0.5, "--early-stopping", "never", "--max-new-tokens", 9]
    best, second = generator.search(
        "The dog", num_beams=4, n=2, length_penalty=0.5, early_stopping="never", max_new_tokens=9
    )
    assert run("generate", folder, "The dog", *options).stdout == best.text + "\n"
    found = json.loads(run("generate", folder, "The dog", *options, "-n", 2, "--json").stdout)["beams"]
    assert [each["text"] for each in found] == [best.text, second.text]
    assert [each["score"] for each in found] == pytest.approx([best.score, second.score], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-n", 2], "-n is 2, but only one text can be streamed; add --json."),
        (["--logprobs", 0], "--logprobs and --prompt-logprobs need --json; add it."),
        (["--num-beams", 2, "--lookup"], "--lookup has no effect on a beam search"),
        (["--length-penalty", 2], "--length-penalty and --early-stopping need beams; add --num-beams."),
        (["--logit-bias", "7"], "'7' is not a token id and a number such as 50256=-1.5"),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(folder, options, message):
    assert message in refused("generate", folder, "a", *options, code=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-beams", 0], "num_beams is 0"),
        (["--num-beams", 2, "--temperature", 0.5], "temperature is 0.5"),
        (["--num-beams", 2, "--seed", 0], "seed is 0, beam search has none; leave it out"),
        (["--num-beams", 2, "--stop", "x"], "stop is"),
        (["--num-beams", 2, "--overflow", "slide"], "overflow is 'slide'"),
        (["--num-beams", 2, "-n", 3, "--json"], "num_return_sequences is 3"),
        (["--typical-p", 2], "typical_p is 2.0"),
        (["--bad-word", ""], "bad word is ''"),
        (["--logprobs", 101, "--json"], "logprobs is 101"),
        (["-n", 0, "--json"], "n is 0, must be an integer from 1 to 1024"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(folder, options, message):
    assert message in refused("generate", folder, "a", *options)


def test_lookup_changes_nothing_of_the_text_and_reports_its_drafts(folder):
    options = ["The dog the dog the dog", "--temperature", 0, "--max-new-tokens", 40]
    plain = run("generate", folder, *options)
    guessed = run("generate", folder, *options, "--lookup")
    assert (guessed.stdout, guessed.exit_code) == (plain.stdout, 0)
    timings = json.loads(run("generate", folder, *options, "--lookup", "--json").stdout)["timings"]
    assert timings["draft_tokens"] >= timings["accepted_tokens"] >= 0
    assert json.loads(run("generate", folder, *options, "--json").stdout)["timings"]["draft_tokens"] == 0


def test_lookup_is_for_several_continuations_too(folder):
    options = ["The dog the dog the dog", "-n", 3, "--seed", 2, "--max-new-tokens", 20, "--json"]
    plain, drafted = (run("generate", folder, *options, *more).stdout for more in ([], ["--lookup"]))
    texts = [[each["text"] for each in json.loads(found)["completions"]] for found in (plain, drafted)]
    assert texts[0] == texts[1]


def test_lookup_in_a_batch_answers_the_same_and_notes_where_it_has_no_effect(folder, tmp_path):
    lines = [{"prompt": "The dog the dog the dog", "temperature": number % 2} for number in range(4)]
    (tmp_path / "in").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts, notes = [], []
    for number, more in enumerate([[], ["--lookup"], ["--precision", "int8", "--lookup"]]):
        done = run("batch", folder, tmp_path / "in", tmp_path / str(number), "--max-new-tokens", 30, "--rows", 2, *more)
        answers = map(json.loads, (tmp_path / str(number)).read_text().splitlines())
        texts.append({answer["id"]: (answer["text"], answer["digest"]) for answer in answers})
        notes.append("note: --lookup has no effect, since drafts could change the text in int8" in done.stderr)
    assert texts[0] == texts[1]
    assert notes == [False, False, True]


def test_the_graph_is_the_one_requested(folder):
    options = ["generate", folder, "The dog", "--seed", 3, "--max-new-tokens", 20]
    assert run(*options, "--graph", "portable").stdout == run(*options, "--graph", "serving").stdout
    assert "portable graph" in run("inspect", folder, "--graph", "portable").stdout
    assert "'fast' is not one of 'serving', 'portable'" in refused(*options, "--graph", "fast", code=2)


def test_temperature_0_is_greedy(folder):
    first, second = (run("generate", folder, "The dog", "--temperature", 0, "--seed", n).stdout for n in (1, 2))
    assert first == second


def test_a_stop_string_ends_the_text(folder, generator):
    text = generator.complete("The dog", seed=1, max_new_tokens=20).text
    options = ["--seed", 1, "--max-new-tokens", 20, "--stop", "nowhere", "--stop", text[4:6]]
    assert run("generate", folder, "The dog", *options).stdout == text[: text.find(text[4:6])] + "\n"


def test_the_prompt_may_come_from_standard_input_as_it_is(folder):
    found = json.loads(run("generate", folder, "-", "--json", "--max-new-tokens", 1, stdin="naïve\n").stdout)
    assert found["prompt_token_ids"] == TextGenerator.open(folder).tokenizer.encode("naïve\n")


def test_the_prompt_may_be_ids(folder):
    found = json.loads(run("generate", folder, "--prompt-ids", "5,6, 7", "--json", "--max-new-tokens", 1).stdout)
    assert found["prompt_token_ids"] == [5, 6, 7]


def test_without_a_tokenizer_ids_are_printed_and_it_says_so(damaged, edit):
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        edit(damaged / "manifest.json", lambda m, name=name: m["files"].pop(name))
    options = ["--seed", 1, "--max-new-tokens", 3]
    result = run("generate", damaged, "--prompt-ids", "5,6", *options)
    found = json.loads(run("generate", damaged, "--prompt-ids", "5,6", "--json", *options).stdout)
    assert result.stdout == ",".join(map(str, found["token_ids"])) + "\n"
    assert result.stderr == "note: the folder has no supported tokenizer, so these are token ids\n"
    assert found["text"] is None
    assert "pass token ids (--prompt-ids 464,3290)" in refused("generate", damaged, "The dog")


def test_inspect_prints_for_people_and_for_machines(folder):
    assert "CPUExecutionProvider, fp32 serving graph, 3 threads" in run("inspect", folder, "--threads", 3).stdout
    found = json.loads(run("inspect", folder, "--json", "--check-hashes").stdout)
    assert found["architecture"]["n_layer"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x" * 200], "error: prompt has 200 tokens, the model reads 64; shorten it or pass --overflow truncate\n"),
        ([""], "error: prompt has 0 tokens, must have at least 1; start from the end-of-text token, id 299\n"),
        (["a", "--temperature", "-1"], "error: temperature is -1.0, must be a number of at least 0; 0 is greedy\n"),
        (
            ["a", "--top-k", "0"],
            "error: top_k is 0, must be an integer of at least 1; leave it out to keep all tokens\n",
        ),
        (["a", "--threads", "0"], "error: threads is 0, must be an integer from 1 to 1024\n"),
        (["a", "--max-new-tokens", "-1"], "error: max_new_tokens is -1, must be an integer of at least 0\n"),
        (["a", "--stop", ""], "error: stop string is '', must be text of at least one character\n"),
        (["--prompt-ids", "300"], "error: token id is 300, must be from 0 to 299\n"),
    ],
)
def test_a_refusal_is_one_line_on_stderr_and_code_1(folder, options, message):
    assert refused("generate", folder, *options) == message


def test_a_long_prompt_can_be_truncated(folder):
    result = run("generate", folder, "x" * 200, "--overflow", "truncate", "--json")
    assert len(json.loads(result.stdout)["prompt_token_ids"]) == 64


@pytest.mark.parametrize("command", [["generate", "nowhere", "a"], ["inspect", "nowhere"]])
def test_a_folder_that_is_not_there_is_refused(command):
    assert refused(*command) == "error: nowhere does not exist; name a folder made by `gpt2-export make SOURCE OUT`\n"


def test_standard_input_that_is_not_utf8_is_refused(folder):
    assert refused("generate", folder, "-", stdin=b"ab\xff") == (
        "error: standard input is not UTF-8 at byte 2; convert it, e.g. with iconv\n"
    )


def test_the_value_that_is_wrong_is_the_one_reported(folder):
    for biases, complaint in (
        (("abc", "5=1"), "'abc' is not a token id and a number such as 50256=-1.5"),
        (("5=-inf", "5=9"), "'5=9' is the second bias for token 5; give only one"),
    ):
        options = [part for bias in biases for part in ("--logit-bias", bias)]
        assert complaint in run("generate", folder, "a", *options).stderr


def test_an_argument_that_is_not_utf8_is_refused(folder):
    process = subprocess.run([*COMMAND, "generate", folder, b"ab\xff"], capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr.startswith("error: text has U+DCFF at character 2")


def test_cuda_that_is_not_there_is_refused(folder, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "pip install 'gpt2-runtime[cuda]'" in refused("generate", folder, "a", "--provider", "cuda")


@pytest.mark.parametrize(
    "options",
    [[], ["a", "--prompt-ids", "5"], ["--prompt-ids", "5,x"], ["a", "--provider", "tpu"], ["a", "--top-k", "x"]],
)
def test_a_usage_error_is_code_2(folder, options):
    assert "Usage: " in refused("generate", folder, *options, code=2)


def test_debug_shows_the_traceback(folder):
    result = run("generate", folder, "", "--debug")
    assert result.exit_code == 1
    first, *_, last = result.stderr.splitlines()
    assert first == "Traceback (most recent call last):"
    assert last.startswith("gpt2_runtime.errors.EmptyPromptError: prompt has 0 tokens")


def test_what_was_not_foreseen_is_one_line_too(folder, monkeypatch):
    monkeypatch.setattr(TextGenerator, "stream", lambda *_, **__: 1 / 0)
    assert refused("generate", folder, "a") == (
        "error: unexpected ZeroDivisionError: division by zero; run again with --debug for the traceback\n"
    )


def test_memory_that_is_used_up_is_reported_with_a_remedy(folder, monkeypatch):
    monkeypatch.setattr(TextGenerator, "stream", lambda *_, **__: bytearray(2**62))
    complaint = "out of memory; process less at once (--rows, -n, a shorter text), or close other programs"
    assert refused("generate", folder, "a") == f"error: {complaint}\n"


def test_every_help_has_an_example():
    for command in (["generate"], ["score"], ["inspect"]):
        text = run(*command, "--help").stdout
        assert "Example" in text
        assert f"gpt2-runtime {command[0]} " in text
    assert "generate" in run("--help").stdout


def test_help_and_usage_do_not_import_onnxruntime():
    seen = "print('onnxruntime' in sys.modules)"
    program = f"import sys; sys.argv = ['x', '--help']\ntry: exec({COMMAND[2]!r})\nfinally: {seen}"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert printed.endswith("False\n")


@pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes of POSIX")
class TestPipes:
    """What only a process shows: flushing, a reader that leaves, Ctrl-C."""

    # Enough tokens that they are still coming when the test has seen the first.
    # And with Ctrl-C as a terminal has it, which a job in the background inherits as ignored.
    SLOW = """
import signal, sys, time, gpt2_runtime.generation.request_state
signal.signal(signal.SIGINT, signal.default_int_handler)
loop = sys.modules["gpt2_runtime.generation.request_state"]
loop.verify_draft = lambda *_: time.sleep(0.05) or [7]
"""

    def start(self, folder, *options):
        program = [sys.executable, "-c", self.SLOW + COMMAND[2]]
        arguments = ["generate", str(folder), "The dog", "--seed", "1", "--max-new-tokens", "60", *options]
        return subprocess.Popen([*program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def test_pieces_are_flushed_as_they_come(self, folder):
        with self.start(folder) as process:
            assert os.read(process.stdout.fileno(), 1000)
            assert process.poll() is None
            process.kill()

    def test_a_reader_that_leaves_ends_it_quietly(self, folder):
        with self.start(folder) as process:
            os.read(process.stdout.fileno(), 1)
            process.stdout.close()
            assert process.wait(20) == 1
            assert process.stderr.read() == b""

    def test_ctrl_c_ends_it_quietly_with_130(self, folder):
        with self.start(folder) as process:
            os.read(process.stdout.fileno(), 1)
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            assert process.stderr.read() == b""
