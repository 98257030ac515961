"""What is sent to another process opens the folder there; what cannot be sent says so; a copy is itself."""

import copy
import dataclasses
import inspect
import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gpt2_runtime import (
    GREEDY,
    Bundle,
    GPT2RuntimeError,
    LookupConfig,
    PrefixCache,
    Prompt,
    SamplingConfig,
    Session,
    TextGenerator,
    complete_batch,
    generate,
    perplexity,
    score_prompt,
)
from gpt2_runtime.errors import BundleError, SettingError
from gpt2_runtime.explain.explainer import Explainer
from gpt2_runtime.tokenizer.stop_strings import StopStrings
from spawned import answer


def sent(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.fixture(scope="module")
def generator(folder):
    return TextGenerator.open(folder, threads=1)


SETTINGS = [
    {},
    {"precision": "int8"},
    {"precision": "int8", "graph": "portable", "threads": 1},
    {"prepack": False, "threads": 2},
    {"graph": "portable"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_session_is_opened_there_with_the_same_settings(folder, settings):
    here = Session.open(folder, **settings)
    there = sent(here)
    for name in ("precision", "graph", "provider", "threads", "signature", "placement", "packed", "bundle"):
        assert getattr(there, name) == getattr(here, name), name
    assert there.opened is not here.opened
    logits = [each.step([[5, 6, 7]], each.empty_cache())[0] for each in (here, there)]
    assert np.array_equal(*logits)
    assert sent(there).packed == here.packed  # and from there on


def test_every_setting_of_opening_is_sent(session):
    """A setting that is added to `open` has to be added to what is sent."""
    names = {name for name in inspect.signature(Session.open).parameters if name != "folder"}
    assert session.reopen.keywords.keys() == names
    assert {*names, "folder", "prefix_bytes", "check_hashes"} == set(inspect.signature(TextGenerator.open).parameters)


def test_a_generator_is_opened_there_and_its_prefixes_start_empty(folder):
    here = TextGenerator.open(folder, threads=1, prefix_bytes=2**20)
    here.complete([5] * 40, max_new_tokens=1)
    there = sent(here)
    assert (there.prefixes.max_bytes, len(there.prefixes), len(here.prefixes)) == (2**20, 0, 1)
    completions = [each.complete("To be", max_new_tokens=9, seed=1) for each in (here, there)]
    assert completions[0].token_ids == completions[1].token_ids
    assert sent(dataclasses.replace(here, prefixes=None)).prefixes is None


def test_a_generator_without_tokenizer_has_none_there(generator):
    assert sent(dataclasses.replace(generator, tokenizer=None)).tokenizer is None


def test_a_process_that_is_spawned_answers_as_this_one(generator):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        completion, text = pool.submit(answer, generator, "To be").result()
    expected = generator.complete("To be", max_new_tokens=5, sampling=GREEDY)
    assert (completion.token_ids, text) == (expected.token_ids, expected.text)


def test_a_method_can_be_sent(generator):
    assert sent(generator.complete)("To be", max_new_tokens=2, seed=1).text is not None


def test_a_relative_path_is_of_the_process_that_sends(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder.parent)
    data = pickle.dumps(Bundle.open(folder.name))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(data).folder == folder


def test_a_folder_that_is_another_one_there_is_refused(damaged, edit):
    data = pickle.dumps(Session.open(damaged, threads=1))
    edit(damaged / "manifest.json", lambda manifest: manifest["source"].update(name="another"))
    with pytest.raises(BundleError, match=r"tiny has a manifest with sha256 \w+\.\.\., in the process that sent"):
        pickle.loads(data)


def test_a_folder_that_is_not_there_is_refused(damaged):
    data = pickle.dumps(TextGenerator.open(damaged, threads=1))
    shutil.rmtree(damaged)
    with pytest.raises(
        BundleError, match=r"folder of another process cannot be opened here: .*open the folder in each"
    ):
        pickle.loads(data)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_of_what_threads_share_is_itself(generator, folder, copied):
    explainer = Explainer.open(folder, threads=1)
    for thing in (generator, generator.session, generator.session.bundle, explainer):
        assert copied(thing) is thing
    assert copied({"generator": generator})["generator"] is generator


def test_an_explainer_is_opened_there(folder):
    here = Explainer.open(folder, threads=1)
    there = sent(here)
    assert there.threads == here.threads
    assert there.explain([5, 6, 7]).ranks.tolist() == here.explain([5, 6, 7]).ranks.tolist()
    assert sent(here.explain([5, 6, 7])).perplexity == here.explain([5, 6, 7]).perplexity


def test_a_tokenizer_is_sent_as_it_is(generator):
    here = generator.tokenizer
    here.encode("To be")  # what it keeps for encoding goes along, or is made again
    for there in (sent(here), copy.deepcopy(here)):
        assert there.encode("To be<|endoftext|>") == here.encode("To be<|endoftext|>")
        assert there.vocabulary == here.vocabulary


def test_settings_and_results_are_sent_as_they_are(generator):
    config = SamplingConfig(logit_bias={5: 1.0}, bad_words_ids=[[6, 7]], temperature=0.5)
    generator.complete([5], max_new_tokens=2, sampling=config)  # what it caches for itself is there
    session = generator.session
    completion = generator.complete("To be", max_new_tokens=3, logprobs=2, prompt_logprobs=1)
    prompts = [Prompt(prompt="To be", settings={"max_new_tokens": 1}), Prompt(prompt=[9999])]
    things = [
        config,
        LookupConfig(),
        completion,
        *generate(session, [5, 6], max_new_tokens=2, logprobs=1),
        *generator.search("To be", num_beams=2, n=2, max_new_tokens=2),
        *score_prompt(session, [5, 6], top=1),
        perplexity(session, [5, 6, 7]),
        Prompt(prompt=[5]),
    ]
    for thing in things:
        assert sent(thing) == thing == copy.deepcopy(thing)
    results = {result.index: result for result in sent(list(complete_batch(generator, prompts)))}
    assert results[0].completions[0].text is not None
    assert (type(results[1].error).__name__, str(results[1].error)) == (
        "TokenIdError",
        "token id is 9999, must be from 0 to 299",
    )


def test_an_error_is_sent_as_it_is():
    for error in (SettingError("a\nb"), BundleError("x" * 5000)):
        assert (type(sent(error)), str(sent(error))) == (type(error), str(error))


def test_what_only_this_process_has_says_what_to_send(generator, either):
    session = generator.session
    _, cache = either.step([[5, 6, 7]], either.empty_cache())
    local = [cache, cache.snapshot(0, 2), PrefixCache(session, max_bytes=10), generator.stream("To be")]
    for thing in local:
        with pytest.raises(GPT2RuntimeError, match=rf"{type(thing).__name__} holds memory of this process.*; \w+"):
            pickle.dumps(thing)
    for copied in (copy.copy, copy.deepcopy):
        for thing in local[2:]:
            with pytest.raises(GPT2RuntimeError, match="holds memory of this process"):
                copied(thing)
        assert copied(local[1]) is local[1]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copied_cache_goes_on_by_itself(either, copied):
    _, cache = either.step([[5, 6, 7]], either.empty_cache())
    twin = copied(cache)
    logits = [either.step([[8]], each)[0] for each in (cache, twin)]
    assert np.array_equal(*logits)


def test_stop_strings_are_sent_as_far_as_they_have_come():
    here = StopStrings(["aab"])
    here.feed("xaa")
    there = sent(here)
    assert (there.feed("ab!"), there.found) == ("a", "aab")


def test_no_path_of_a_bundle_is_taken_for_text(folder):
    assert isinstance(sent(Bundle.open(str(folder))).folder, Path)
