"""Whatever is refused is a GPT2RuntimeError of one line: every parameter of public calls, with values of any type."""

import inspect
import math

import gpt2_runtime
import numpy as np
import pytest
from gpt2_runtime import (
    GREEDY,
    Bundle,
    GenerationConfig,
    GPT2RuntimeError,
    LookupConfig,
    PrefixCache,
    Prompt,
    SamplingConfig,
    Session,
    TextGenerator,
    Tokenizer,
    beam_search,
    complete_batch,
    generate,
    perplexity,
    score,
    score_prompt,
    score_windows,
)
from gpt2_runtime.batch_file.line import Defaults
from gpt2_runtime.errors import shown
from gpt2_runtime.explain.explainer import Explainer
from gpt2_runtime.generation.request import Request
from gpt2_runtime.generation.scheduler import Scheduler


class Odd:
    def __repr__(self):
        return "<an odd\nthing>"


class Mute:
    def __repr__(self):
        raise RuntimeError("no repr")


VALUES = [
    *(None, True, 5, -1, 10**400, 1.5, math.nan, math.inf, "", "x", "half \ud800", "a\0b", b"x"),
    *([], [5], ["x"], [[5]], [None], {}, {"a": 1}, {5: 1}, (), (5,), {5}, range(3), iter([5]), object(), Odd(), Mute()),
    *(np.array([5]), np.array(["x"]), np.array(1.5), np.zeros((2, 2)), np.float32(2), np.int64(3), print, Session),
]
FLAGS = {"prepack": True, "cuda_graph": False, "load": "copy", "fast_single": False}
OPENING = {"precision": "fp32", "provider": "cpu", "threads": 1, "graph": "serving", **FLAGS}
REQUEST = {"max_new_tokens": 1, "sampling": GREEDY, "stop_token_ids": None, "overflow": "error", "logprobs": None}
SETTINGS = {**REQUEST, "seed": 1, "stop": [], "bad_words": [], "prompt_logprobs": None, "parse_special": True}
BEAMS = {"num_beams": 2, "length_penalty": 1.0, "early_stopping": False}


def calls(folder, generator):
    """Each public call by its name, and arguments that it takes."""
    session, bundle, tokenizer = generator.session, generator.session.bundle, generator.tokenizer
    explainer = Explainer.open(folder, threads=1)

    def cache():
        return session.step([[5, 6], [7, 8]], session.empty_cache(2))[1]

    return {
        "Bundle.open": (Bundle.open, {"folder": folder, "check_hashes": False}),
        "Bundle.path": (bundle.path, {"name": "config.json"}),
        "Bundle.precision": (bundle.precision, {"name": "fp32"}),
        "Bundle.graph": (bundle.graph, {"precision": "fp32", "kind": "serving"}),
        "Session.open": (Session.open, {"folder": bundle, **OPENING}),
        "TextGenerator.open": (TextGenerator.open, {"folder": bundle, **OPENING, "prefix_bytes": None}),
        "TextGenerator": (TextGenerator, {"session": session, "tokenizer": tokenizer, "prefixes": None}),
        "Tokenizer.open": (Tokenizer.open, {"folder": folder, "trained_sha256": None}),
        "Tokenizer": (Tokenizer, {"vocabulary": tokenizer.vocabulary}),
        "Tokenizer.encode": (tokenizer.encode, {"text": "To", "parse_special": True, "add_special_tokens": True}),
        "Tokenizer.token_bytes": (tokenizer.token_bytes, {"token_id": 5}),
        "Tokenizer.decode": (tokenizer.decode, {"ids": [5]}),
        "Explainer.open": (Explainer.open, {"folder": bundle, "provider": "cpu", "threads": 1}),
        "explain": (explainer.explain, {"prompt": "To", "top": 3, "generate": 0, "overflow": "error"}),
        "empty_cache": (session.empty_cache, {"batch_size": 1, "capacity": 5}),
        "step": (lambda **given: session.step(cache=cache(), **given), {"ids": [[5], [6]], "logits_to_keep": 1}),
        "step_top_k": (
            lambda **given: session.step_top_k(cache=cache(), **given),
            {"ids": [[5], [6]], "counts": [1, None], "logits_to_keep": 1},
        ),
        "step's cache": (lambda cache: session.step([[5]], cache), {"cache": session.empty_cache()}),
        "crop": (lambda **given: cache().crop(**given), {"lengths": 1}),
        "selected": (lambda **given: cache().reorder(**given), {"rows": [0]}),
        "taken": (lambda **given: cache().snapshot(**given), {"row": 0, "length": 1}),
        "given": (
            lambda **given: cache().restore(**given),
            {"row": 0, "snapshot": cache().snapshot(0, 2), "length": 1},
        ),
        "complete": (generator.complete, {"prompt": "To", "lookup": None, **SETTINGS}),
        "stream": (lambda **given: list(generator.stream(**given)), {"prompt": "To", "lookup": None, **SETTINGS}),
        "search": (generator.search, {"prompt": "To", "n": 1, **BEAMS, **REQUEST}),
        "generate": (
            lambda **given: list(generate(**given)),
            {"session": session, "prompt_ids": [5], **REQUEST, "rng": None, "lookup": None, "prefixes": None},
        ),
        "beam_search": (
            beam_search,
            {"session": session, "prompt_ids": [5], "num_return_sequences": 1, **BEAMS, **REQUEST},
        ),
        "complete_batch": (
            lambda **given: list(complete_batch(**given)),
            {
                "generator": generator,
                "prompts": [Prompt(prompt=[5], settings={"max_new_tokens": 1})],
                "rows": 1,
                "lookup": None,
            },
        ),
        "Prompt": (Prompt, {"prompt": "To", "settings": {}, "n": 1}),
        "score": (score, {"session": session, "ids": [5, 6], "first": 1, "top": 0, "cache": None}),
        "score_prompt": (score_prompt, {"session": session, "ids": [5, 6], "top": 0}),
        "perplexity": (perplexity, {"session": session, "ids": [5, 6], "window": 4, "stride": 2}),
        "score_windows": (
            lambda **given: list(score_windows(**given)),
            {"session": session, "ids": [5, 6], "window": 4, "stride": 2, "top": 0},
        ),
        "SamplingConfig": (SamplingConfig, vars(SamplingConfig())),
        "GenerationConfig": (GenerationConfig, vars(GenerationConfig())),
        "GenerationConfig.of": (
            GenerationConfig.of,
            {"config": GenerationConfig(), **vars(SamplingConfig()), **SETTINGS},
        ),
        "LookupConfig": (LookupConfig, vars(LookupConfig())),
        "PrefixCache": (PrefixCache, {"session": session, "max_bytes": 10}),
        "Scheduler": (Scheduler, {"session": session, "rows": 2, "capacity": 5, "prefill_chunk": 16, "prefixes": None}),
        "Request": (Request, {"prompt_ids": [5], **REQUEST}),
        "Defaults": (Defaults, {"settings": {}, "n": 1, "seed": 0, "model": ""}),
    }


@pytest.fixture(scope="module")
def generator(folder):
    return TextGenerator.open(folder, threads=1)


def test_whatever_is_refused_is_one_line_of_ours(folder, generator):
    for name, (call, right) in calls(folder, generator).items():
        right = {key: value for key, value in right.items() if name != "beam_search" or key != "logprobs"}
        call(**{key: value for key, value in right.items() if not (name == "search" and key == "logprobs")})
        for parameter in right:
            for value in VALUES:
                refused = refusal(call, {**right, parameter: value})
                assert refused is None or isinstance(refused, GPT2RuntimeError), (name, parameter, shown(value))
                assert len(str(refused).splitlines()) == 1
                assert len(str(refused)) < 1000


def refusal(call, given):
    try:
        call(**given)
    except Exception as error:
        return error
    return None


def test_the_calls_of_the_package_are_all_among_them(folder, generator):
    results = {
        "Result",
        "Completion",
        "TokenLogprob",
        "BeamCompletion",
        "Token",
        "Finished",
        "Timings",
        "Beam",
        "KeyValueCache",
    }
    results |= {"TextStream", "TokenScore", "Perplexity", "GPT2RuntimeError", "AS_TRAINED", "GREEDY"}
    table = calls(folder, generator)
    for name in set(gpt2_runtime.__all__) - results:
        found = [call for call in table if call == name or call.startswith(f"{name}.")]
        assert found, name
        call = getattr(gpt2_runtime, name)
        if inspect.isclass(call) and hasattr(call, "open"):
            assert set(inspect.signature(call.open).parameters) <= {*table[f"{name}.open"][1], "check_hashes"}, name
        if inspect.isfunction(call):
            assert set(inspect.signature(call).parameters) - {"settings"} <= set(table[name][1]), name
