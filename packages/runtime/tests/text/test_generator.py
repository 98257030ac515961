from dataclasses import replace

import pytest
from gpt2_runtime import GREEDY, GPT2RuntimeError, LookupConfig, SamplingConfig, TextGenerator, generate
from gpt2_runtime.errors import (
    BundleError,
    EmptyPromptError,
    PromptError,
    PromptTooLongError,
    SettingError,
    TokenizerError,
)
from gpt2_runtime.scoring.score import score_prompt
from gpt2_runtime.tokenizer.detokenizer import Detokenizer

# Without a stop token, so that each text has the requested length, whatever the random weights are.
ENDLESS = {"max_new_tokens": 40, "stop_token_ids": (), "seed": 5}
WILD = SamplingConfig(temperature=3.0)  # of 300 tokens most are single bytes, so characters are split all the time


@pytest.fixture(scope="module")
def generator(folder):
    return TextGenerator.open(folder, threads=1)


@pytest.fixture(scope="module")
def without_tokenizer(generator):
    return replace(generator, tokenizer=None)


def test_text_is_the_decoded_tokens(generator):
    for seed in range(20):
        completion = generator.complete("The dog", max_new_tokens=50, sampling=WILD, seed=seed)
        assert completion.text == generator.tokenizer.decode(completion.token_ids)
        assert completion.prompt_token_ids == tuple(generator.tokenizer.encode("The dog"))


def test_the_tokens_are_those_of_generate(generator):
    prompt = generator.tokenizer.encode("The dog")
    *events, finished = generate(generator.session, prompt, max_new_tokens=20, sampling=GREEDY)
    completion = generator.complete("The dog", max_new_tokens=20, sampling=GREEDY)
    assert completion.token_ids == tuple(event.id for event in events)
    assert completion.finish_reason == finished.reason
    assert completion.timings.decode_tokens == finished.timings.decode_tokens


def test_lookup_leaves_the_text_as_it_is(generator):
    settings = {"sampling": SamplingConfig(temperature=0.4), **ENDLESS}
    plain = generator.complete("The dog the dog the dog", **settings)
    guessed = generator.complete("The dog the dog the dog", lookup=LookupConfig(), **settings)
    assert replace(guessed, timings=plain.timings) == plain


def test_a_generator_opens_the_requested_graph(folder):
    opened = {graph: TextGenerator.open(folder, threads=1, graph=graph) for graph in (None, "serving", "portable")}
    assert [each.session.graph for each in opened.values()] == ["serving", "serving", "portable"]


def test_the_pieces_of_a_stream_are_the_text_and_none_is_empty(generator):
    settings = {"sampling": WILD, **ENDLESS}
    stream = generator.stream("The dog", **settings)
    pieces = list(stream)
    assert len(pieces) > 10
    assert all(pieces)
    completion = generator.complete("The dog", **settings)
    assert "".join(pieces) == completion.text
    assert replace(stream.completion, timings=completion.timings) == completion


def test_a_stream_has_no_completion_before_its_end(generator):
    stream = generator.stream("The dog", sampling=WILD, **ENDLESS)
    next(stream)
    with pytest.raises(GPT2RuntimeError, match="stream has not ended"):
        _ = stream.completion


def test_a_stop_string_ends_the_text_wherever_it_starts(generator):
    whole = generator.complete("The dog", sampling=WILD, **ENDLESS)
    for start in range(5, len(whole.text) - 3):
        stop = whole.text[start : start + 3]
        ended = generator.complete("The dog", sampling=WILD, **ENDLESS, stop=[stop, "nowhere"])
        assert ended.text == whole.text[: whole.text.find(stop)]
        assert ended.finish_reason == "stop"
        assert ended.token_ids == whole.token_ids[: len(ended.token_ids)]
        assert stop in generator.tokenizer.decode(ended.token_ids)
        one_less = map(Detokenizer(generator.tokenizer.token_bytes).feed, ended.token_ids[:-1])
        assert stop not in "".join(one_less)  # so that no token was made for nothing


def test_a_stop_string_that_never_comes_takes_nothing_away(generator):
    settings = {"sampling": WILD, **ENDLESS}
    whole = generator.complete("The dog", **settings)
    almost = whole.text[-2:] + "\0never"
    assert generator.complete("The dog", stop=[almost], **settings).text == whole.text


def test_an_end_of_text_token_ends_the_text_and_is_not_in_it(generator):
    whole = generator.complete("The dog", sampling=WILD, **ENDLESS)
    end = whole.token_ids[10]
    ended = generator.complete("The dog", sampling=WILD, **(ENDLESS | {"stop_token_ids": [end]}))
    assert ended.finish_reason == "stop"
    assert ended.token_ids == whole.token_ids[: whole.token_ids.index(end)]


def test_a_seed_repeats_the_text_and_is_reported(generator):
    first = generator.complete("The dog", max_new_tokens=30, stop_token_ids=())
    again = generator.complete("The dog", max_new_tokens=30, stop_token_ids=(), seed=first.seed)
    assert again.token_ids == first.token_ids
    assert generator.complete("The dog", max_new_tokens=1).seed != first.seed


def test_a_prompt_of_ids_is_a_prompt(generator):
    ids = generator.tokenizer.encode("The dog")
    settings = {"max_new_tokens": 9, "seed": 1}
    text = generator.complete("The dog", **settings)
    assert generator.complete(ids, **settings).text == text.text


def test_end_of_text_in_a_prompt_is_the_token_unless_spelled_out(generator):
    assert generator.complete("a<|endoftext|>", max_new_tokens=0).prompt_token_ids[-1] == 299
    plain = generator.complete("a<|endoftext|>", max_new_tokens=0, parse_special=False)
    assert 299 not in plain.prompt_token_ids
    assert (plain.text, plain.token_ids, plain.finish_reason) == ("", (), "length")


def test_prompts_that_cannot_be_read_are_refused_at_the_call(generator):
    with pytest.raises(EmptyPromptError):
        generator.stream("")
    with pytest.raises(PromptTooLongError, match="prompt has 90 tokens, the model reads 64"):
        generator.stream("§" * 45)
    kept = generator.complete("§" * 45, overflow="truncate")
    assert kept.prompt_token_ids == tuple(generator.tokenizer.encode("§" * 32))
    assert len(kept.token_ids) <= 1


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True])
def test_a_seed_that_is_no_number_is_refused(generator, seed):
    with pytest.raises(SettingError) as refused:
        generator.stream("a", seed=seed)
    assert (refused.value.parameter, refused.value.value) == ("seed", seed)


def test_without_a_tokenizer_ids_go_in_and_out(generator, without_tokenizer):
    prompt = generator.tokenizer.encode("The dog")
    completion = without_tokenizer.complete(prompt, max_new_tokens=9, seed=1)
    assert completion.text is None
    assert completion.token_ids == generator.complete(prompt, max_new_tokens=9, seed=1).token_ids
    with pytest.raises(TokenizerError, match="lists no tokenizer files; pass token ids"):
        without_tokenizer.complete("The dog")
    with pytest.raises(TokenizerError, match="without stop strings"):
        without_tokenizer.complete(prompt, stop=["x"])


def test_a_folder_whose_manifest_lists_no_tokenizer_has_none(damaged, edit):
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (damaged / name).unlink()
        edit(damaged / "manifest.json", lambda m, name=name: m["files"].pop(name))
    assert TextGenerator.open(damaged, threads=1).tokenizer is None


def test_half_a_tokenizer_is_none(damaged, edit):
    for name in ("tokenizer.json", "merges.txt"):
        (damaged / name).unlink()
        edit(damaged / "manifest.json", lambda m, name=name: m["files"].pop(name))
    generator = TextGenerator.open(damaged, threads=1)
    assert generator.tokenizer is None
    with pytest.raises(TokenizerError, match="has no tokenizer files"):
        generator.complete("The dog")


def test_hashes_are_compared_on_request(damaged, edit):
    edit(damaged / "manifest.json", lambda m: m["files"]["merges.txt"].update(sha256="0" * 64))
    TextGenerator.open(damaged, threads=1)
    with pytest.raises(BundleError, match=r"merges\.txt has sha256"):
        TextGenerator.open(damaged, threads=1, check_hashes=True)


def test_the_prompts_own_logprobs_are_reported_on_request(generator):
    prompt = generator.tokenizer.encode("The dog the dog")
    completion = generator.complete("The dog the dog", max_new_tokens=2, prompt_logprobs=3)
    assert completion.prompt_logprobs == score_prompt(generator.session, prompt, top=3)
    assert completion.prompt_logprobs[0].logprob is None
    assert len(completion.prompt_logprobs) == len(prompt)
    assert generator.complete("The dog", max_new_tokens=2).prompt_logprobs is None
    for wrong in (-1, 101, True):
        with pytest.raises(SettingError) as refused:
            generator.complete("The dog", prompt_logprobs=wrong)
        assert (refused.value.parameter, refused.value.value) == ("prompt_logprobs", wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 1025), ("seed", 2**128), ("stop", None), ("bad_words", 5), ("sampling", None), ("parse_special", "no")],
)
def test_settings_of_another_type_or_beyond_a_limit_are_refused(generator, name, value):
    with pytest.raises(SettingError) as refused:
        generator.start("To be", **{name: value})
    assert (refused.value.parameter, refused.value.value) == (name, value)


@pytest.mark.parametrize("prompt", [None, 5, b"bytes", {5}])
def test_a_prompt_that_is_neither_text_nor_ids_is_refused(folder, prompt):
    with pytest.raises(PromptError) as refused:
        TextGenerator.open(folder, threads=1).stream(prompt)
    assert (refused.value.parameter, refused.value.value) == ("prompt_ids", prompt)


@pytest.mark.parametrize("path", [None, 5, b"tiny", ["tiny"]])
def test_a_folder_that_is_no_path_is_refused(path):
    with pytest.raises(BundleError, match=r"folder is .*, must be a path"):
        TextGenerator.open(path)
