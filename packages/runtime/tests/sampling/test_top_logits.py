"""Top logits are complete however a device orders ties; where that cannot be known the result is None."""

from dataclasses import replace

import numpy as np
import pytest
from gpt2_runtime import GREEDY, SamplingConfig
from gpt2_runtime.errors import SettingError
from gpt2_runtime.sampling.sampler import sample
from gpt2_runtime.sampling.top_logits import Highest, TopLogits, top_logits
from hypothesis import given
from hypothesis import strategies as st


def highest(logits, most, rng):
    """The `most` highest of each row as a device may return them: any of the ties, in any order."""
    ids = np.array([sorted(range(len(row)), key=lambda id_: (-row[id_], rng.random()))[:most] for row in logits])
    finite = np.isfinite(logits).all(axis=1)
    return Highest(np.take_along_axis(logits, ids, axis=1), ids, finite, logits.shape[1])


@given(
    levels=st.lists(st.lists(st.integers(0, 6), min_size=12, max_size=12), min_size=1, max_size=4),
    most=st.integers(1, 12),
    data=st.data(),
)
def test_all_ties_with_the_last_are_there_or_the_result_is_none(levels, most, data):
    logits = np.array(levels, np.float32)
    counts = data.draw(st.lists(st.integers(1, 15), min_size=len(levels), max_size=len(levels)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    for row, count, top in zip(logits, counts, top_logits(highest(logits, most, rng), counts), strict=True):
        lowest = np.sort(row)[-min(count, 12)]
        expected = np.flatnonzero(row >= lowest)
        if top is None:
            # More could tie than the device returned, or it returned too few.
            assert most < 12
            assert count > most or np.sort(row)[-most] == lowest
            continue
        assert top.ids.tolist() == expected.tolist()
        assert top.logits.tolist() == row[expected].tolist()
        assert top.reach == count


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_gives_none(bad):
    logits = np.array([[1, 2, 3, 4], [1, 2, bad, 4], [4, 3, 2, 1]], np.float32)
    first, damaged, last = top_logits(highest(logits, 4, np.random.default_rng(0)), [1, 1, 2])
    assert (first.ids.tolist(), damaged, last.ids.tolist()) == ([3], None, [0, 1])


def top(logits, reach):
    """The top logits of all tokens that reach the `reach` highest."""
    ids = np.flatnonzero(logits >= np.sort(logits)[-min(reach, len(logits))])
    return TopLogits(ids, logits[ids], reach)


SHORT = [
    GREEDY,
    SamplingConfig(top_k=1),
    SamplingConfig(top_k=50),
    SamplingConfig(top_k=40, top_p=0.9, temperature=0.7),
    SamplingConfig(top_k=200, min_p=0.01, typical_p=0.9),
]


@pytest.mark.parametrize("config", SHORT, ids=str)
@pytest.mark.parametrize("size", [30, 300, 50257])
@pytest.mark.parametrize("spacing", [0, 0.03, 1])
def test_the_highest_logits_choose_the_same_token_as_all_logits(config, size, spacing):
    draws = np.random.default_rng(0)
    for seed in range(20):
        logits = (5 * draws.standard_normal(size)).astype(np.float32)
        if spacing:  # float16 has few values and many ties
            logits = (np.round(logits / spacing) * spacing).astype(np.float32)
        whole = np.random.default_rng(seed)
        expected = sample(logits, config, whole)
        for reach in (config.needed, config.needed + 7):
            short = np.random.default_rng(seed)
            assert sample(top(logits, reach), config, short) == expected
            assert short.bit_generator.state == whole.bit_generator.state


@pytest.mark.parametrize(
    ("config", "needed"),
    [
        (GREEDY, 1),
        (SamplingConfig(temperature=0, top_k=7), 1),
        (SamplingConfig(top_k=7), 7),
        (SamplingConfig(), None),
        (SamplingConfig(top_p=0.5), None),
        (replace(GREEDY, repetition_penalty=1.1), None),
        (replace(GREEDY, logit_bias={5: 1.0}), None),
        (SamplingConfig(top_k=7, min_new_tokens=1), None),
    ],
)
def test_a_config_knows_how_many_logits_it_needs(config, needed):
    assert config.needed == needed


@pytest.mark.parametrize(
    ("config", "needed"),
    [
        (SamplingConfig(top_k=6), "the 6 highest logits"),
        (SamplingConfig(top_p=0.5), "all logits"),
        (replace(GREEDY, min_new_tokens=1), "all logits"),
    ],
)
def test_fewer_than_needed_are_refused(config, needed):
    message = f"^logits are the 5 highest, must be {needed} for these settings; pass those$"
    with pytest.raises(SettingError, match=message):
        sample(top(np.arange(9, dtype=np.float32), 5), config, np.random.default_rng(0))
