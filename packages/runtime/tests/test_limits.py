"""The most that a request may have: each limit in one line; and below it work that grows as the input does."""

import io
import json
from time import process_time

import pytest
from click.testing import CliRunner
from gpt2_runtime import PrefixCache, Prompt, SamplingConfig, TextGenerator, complete_batch
from gpt2_runtime.batch_file.file import MOST_SKIPPED_BYTES, lines_of, run
from gpt2_runtime.batch_file.line import MOST_LINE_BYTES, MOST_NAMES, Defaults, read
from gpt2_runtime.cli.command import main
from gpt2_runtime.cli.score import MOST_TEXT_BYTES
from gpt2_runtime.cli.streams import MOST_PROMPT_BYTES
from gpt2_runtime.errors import GPT2RuntimeError, JobError
from gpt2_runtime.generation.config import MOST_BAD_WORD_LENGTH, MOST_BAD_WORDS, MOST_SLIDING
from gpt2_runtime.generation.request import Request
from gpt2_runtime.sampling.config import MOST_BAD_IDS, MOST_BAD_WORDS_IDS, MOST_BIASES
from gpt2_runtime.tokenizer.stop_strings import MOST_STOP_LENGTH, MOST_STOPS, StopStrings


@pytest.fixture(scope="module")
def generator(folder):
    return TextGenerator.open(folder, threads=1)


def slid(count):
    return Request(prompt_ids=[5], max_new_tokens=count, overflow="slide")


def names(count):
    inner = ",".join(f'"{number}":0' for number in range(count)).encode()
    return read(b'{"prompt":"a","logit_bias":{' + inner + b"}}", 1, Defaults())


LIMITS = [
    (slid, MOST_SLIDING, "max_new_tokens is 100001, must be at most 100,000 where overflow is 'slide'; continue from"),
    (names, MOST_NAMES, "has an object of 300,001 names, must have at most 300,000; leave some out"),
    (
        lambda count: SamplingConfig(logit_bias=dict.fromkeys(range(count), 1.0)),
        MOST_BIASES,
        "logit_bias has 300,001 tokens, must have at most 300,000; leave some out",
    ),
    (
        lambda count: SamplingConfig(bad_words_ids=[[5]] * count),
        MOST_BAD_WORDS_IDS,
        "bad_words_ids has 20,001 sequences, must have at most 20,000; leave some out",
    ),
    (
        lambda count: SamplingConfig(bad_words_ids=[[5] * 10, [5] * (count - 10)]),
        MOST_BAD_IDS,
        "bad_words_ids has 1,000,001 ids or more, must have at most 1,000,000 of all sequences together; leave some",
    ),
    (
        lambda count: StopStrings([str(number) for number in range(count)]),
        MOST_STOPS,
        "stop has 257 strings, must have at most 256; leave some out",
    ),
    (
        lambda count: StopStrings(["x" * count]),
        MOST_STOP_LENGTH,
        "stop string has 1,001 characters, must have at most 1,000; shorten it: 'xxx",
    ),
    (
        lambda count: read(b'{"prompt":"%s"}' % (b"x" * (count - 13)), 1, Defaults()),
        MOST_LINE_BYTES,
        "has more than 4,000,000 bytes, the limit for a line; shorten it, or split its prompt",
    ),
]


@pytest.mark.parametrize(("call", "most", "message"), LIMITS, ids=[message[:25] for *_, message in LIMITS])
def test_a_limit_is_reported_in_one_line_and_what_is_within_passes(call, most, message):
    call(most)
    with pytest.raises(GPT2RuntimeError) as refused:
        call(most + 1)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stop": ["x"] * (MOST_STOPS + 1)}, "stop has 257 strings, must have at most 256"),
        ({"bad_words": ["x"] * (MOST_BAD_WORDS + 1)}, "bad_words has 10,001 strings, must have at most 10,000"),
        ({"bad_words": ["x" * (MOST_BAD_WORD_LENGTH + 1)]}, "bad word has 1,001 characters, must have at most 1,000"),
        ({"bad_words": ["\U00010348" * 1000] * 200}, "bad_words have 1,600,200 tokens, as they are and after a space,"),
        ({"max_new_tokens": 10**12, "overflow": "slide"}, "max_new_tokens is 1000000000000, must be at most 100,000"),
    ],
    ids=["stops", "bad words", "long word", "many ids", "slide"],
)
def test_a_prompt_beyond_a_limit_is_its_own_error_alone(generator, settings, message):
    prompts = [Prompt(prompt="To be", settings=settings), Prompt(prompt="To be", settings={"max_new_tokens": 1})]
    results = {result.index: result for result in complete_batch(generator, prompts)}
    assert str(results[0].error).startswith(message)
    assert len(results[1].completions) == 1


def test_a_line_that_is_too_long_is_reported_by_its_number_and_takes_no_memory(generator, tmp_path):
    source = io.BytesIO(b'{"prompt":"a"}\n{"prompt":"' + b"x" * 3 * MOST_LINE_BYTES + b'"}\n{"prompt":"b"}\n')
    assert max(map(len, lines_of(source))) == MOST_LINE_BYTES + 1
    source.seek(0)
    refused = []
    defaults = Defaults(settings={"max_new_tokens": 1})
    done = run(
        generator, lines_of(source), tmp_path / "out", defaults=defaults, refused=lambda *line: refused.append(line)
    )
    assert (done.answered, done.failed, [number for number, _ in refused]) == (2, 1, [2])


class Endless(io.RawIOBase):
    """A file without a line end, as /dev/zero is."""

    def readable(self):
        return True

    def readinto(self, buffer):
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def test_a_file_without_lines_is_not_read_for_ever():
    limit = f"{MOST_SKIPPED_BYTES:,} bytes, must have at most 4,000,000; name a file of lines"
    with pytest.raises(JobError, match=f"line 1 has no end in {limit}"):
        next(lines_of(io.BufferedReader(Endless())))


@pytest.mark.parametrize(
    ("words", "most"), [(["generate", "{}", "-"], MOST_PROMPT_BYTES), (["score", "{}", "/dev/zero"], MOST_TEXT_BYTES)]
)
def test_a_text_without_end_is_refused(folder, words, most):
    found = CliRunner().invoke(main, [word.format(folder) for word in words], input=b"x" * (MOST_PROMPT_BYTES + 1))
    assert found.exit_code == 1
    assert f"has more than {most:,} bytes, the most of a text; give a part of it" in found.stderr


def test_an_output_without_lines_is_refused_unread(generator, tmp_path):
    target = tmp_path / "out"
    with target.open("wb") as file:
        file.truncate(10**11)  # a hole, which takes no room on the disk but all memory when it is read
    with pytest.raises(JobError, match="has a line 1 not written by a batch"):
        run(generator, [b'{"prompt":"a"}'], target, defaults=Defaults())


def seconds(call):
    start = process_time()
    call()
    return process_time() - start


def test_names_that_come_twice_are_found_in_one_pass():
    line = ("{" + ",".join(f'"k{number}":1' for number in range(200_000)) + ',"k199999":2}').encode()

    def refused():
        with pytest.raises(JobError, match='has "k199999" twice; give it once'):
            read(line, 1, Defaults())

    assert seconds(refused) < 5  # a pass for each name takes a quarter of an hour


def test_stop_strings_take_a_step_a_character():
    stops = StopStrings(["a" * (MOST_STOP_LENGTH - 1) + end for end in "bcdefghi"])
    assert seconds(lambda: [stops.feed("aaaa") for _ in range(5000)]) < 5  # to compare each start takes minutes


def test_a_prompt_of_many_continuations_ends_in_proportion_to_them(generator):
    settings = {"max_new_tokens": 1, "stop_token_ids": ()}
    (result,) = complete_batch(generator, [Prompt(prompt=[5], settings=settings, n=1000)])
    assert len(result.completions) == 1000


@pytest.mark.parametrize("ids", [10**400, 2**63, -1])
def test_a_number_beyond_int64_is_a_lines_error(generator, tmp_path, ids):
    refused = []
    documents = [{"token_ids": [ids]}, {"prompt": "a", "logit_bias": {"9" * 18: 1}}]
    lines = [json.dumps(document).encode() for document in documents]
    run(generator, lines, tmp_path / "out", defaults=Defaults(), refused=lambda *line: refused.append(line))
    assert len(refused) == 2


def test_a_prefix_is_found_without_a_look_at_each(generator):
    session = generator.session
    kept = PrefixCache(session, max_bytes=10**8)
    _, cache = session.step([[5] * 16], session.empty_cache())
    texts = [[number % 299, number // 299, *[7] * 14] for number in range(5000)]

    def keep():
        for text in texts:
            kept.keep(text, cache)
        assert all(kept.longest(text)[1] == 16 for text in texts)

    assert seconds(keep) < 5  # to compare each text with each takes a minute
    assert len(kept) == 5000
