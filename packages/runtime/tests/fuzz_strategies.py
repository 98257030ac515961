"""Arguments of the public API: mostly what is right, and now and then a value of any type.

GPT2_RUNTIME_FUZZ=20 tries twenty times as many.
"""

import math
import os
from typing import get_args

import numpy as np
from bounded import LONGEST, bounded_memory
from gpt2_runtime import GPT2RuntimeError, SamplingConfig
from gpt2_runtime.graphs.graph_signature import GraphKind
from gpt2_runtime.precisions import PRECISIONS
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

TIMES = int(os.environ.get("GPT2_RUNTIME_FUZZ", "1"))
VOCABULARY, POSITIONS = 300, 64

# The folders and graphs that there are: each precision, portable and serving.
KINDS = st.sampled_from([(precision, graph) for precision in PRECISIONS for graph in get_args(GraphKind)])

TEXTS = st.text(max_size=8) | st.sampled_from(["<|endoftext|>", "a\0\n🙂", "half \ud800", "x" * 5000])
NUMBERS = (
    st.integers(-3, 400)
    | st.sampled_from([-(10**400), -(2**63), 2**31, 2**63, 2**64, 10**12, 10**400, 10**4000])
    | st.floats()
    | st.sampled_from([0.5, 1.0, -1.0, 1e-300, 1e300, math.inf, -math.inf, math.nan])
)
DTYPES = arrays.scalar_dtypes() | st.sampled_from([np.dtype(object), np.dtype("U3"), np.dtype("S3")])
ARRAYS = DTYPES.flatmap(
    lambda dtype: arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3).map(
        lambda shape: np.zeros(shape, dtype)
    )
)
SCALARS = ARRAYS.map(lambda array: array.ravel()[0] if array.size else array)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS | st.binary(max_size=4) | ARRAYS | SCALARS
RUBBISH = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers(-2, 300) | st.text(max_size=3) | st.none(), inner, max_size=2)
    ),
    max_leaves=5,
)

IDS = st.integers(0, VOCABULARY - 1)
PROMPTS = st.lists(IDS, min_size=1, max_size=12) | st.lists(IDS, max_size=80) | st.lists(IDS).map(np.array)
WORDS = st.lists(st.lists(IDS, min_size=1, max_size=3), max_size=3)
COUNTS = st.integers(0, 6)
STRINGS = st.lists(st.text("To be, orntaie ", min_size=1, max_size=3), max_size=2)


def mostly(good):
    """Mostly what is right, so that what is wrong with one argument does not hide another."""
    return st.integers(0, 9).flatmap(lambda number: good if number else RUBBISH)


def keywords(**strategies):
    """Some of the arguments."""
    return st.fixed_dictionaries({}, optional={name: mostly(each) for name, each in strategies.items()})


SAMPLING = keywords(
    temperature=st.sampled_from([0, 0.5, 1.0, 100.0, 1e-300, 1e300]),
    top_k=st.integers(1, 400) | st.none(),
    top_p=st.floats(0.01, 1) | st.none(),
    min_p=st.floats(0, 1) | st.none(),
    typical_p=st.floats(0.01, 1) | st.none(),
    repetition_penalty=st.sampled_from([0.5, 1, 1.5, 1e9, 1e-9]),
    frequency_penalty=st.floats(-2, 2) | st.sampled_from([-1e9, 1e9]),
    presence_penalty=st.floats(-2, 2) | st.sampled_from([-1e9, 1e9]),
    no_repeat_ngram_size=st.integers(1, 4) | st.none(),
    logit_bias=st.dictionaries(IDS, st.floats(-9, 9) | st.just(-math.inf), max_size=3),
    bad_words_ids=WORDS,
    min_new_tokens=COUNTS,
)
REQUEST = {
    "max_new_tokens": COUNTS,
    "sampling": SAMPLING.map(lambda given: answer(SamplingConfig, **given)).filter(bool),
    "stop_token_ids": st.none() | st.lists(IDS, max_size=3),
    "overflow": st.sampled_from(["error", "truncate", "slide"]),
    "logprobs": st.none() | COUNTS,
}
SETTINGS = keywords(
    **REQUEST,
    seed=st.none() | st.integers(0, 2**64),
    stop=STRINGS,
    bad_words=STRINGS,
    prompt_logprobs=st.none() | COUNTS,
    parse_special=st.booleans(),
)


def fuzzed(examples):
    """Enough to have found what was wrong once; the same ones every time. None may hang."""
    return settings(max_examples=examples * TIMES, derandomize=True, deadline=LONGEST)


def answer(call, *arguments, **keywords):
    """What a call returns, or None where it refuses in one line. Any other exception is a failure; so is a gigabyte."""
    try:
        with bounded_memory():
            return call(*arguments, **keywords)
    except GPT2RuntimeError as error:
        complaint = str(error)
        assert complaint.splitlines() == [complaint]
        assert len(complaint) < 1000
        return None
