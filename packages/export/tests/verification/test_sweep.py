"""The sweep's cases fit any model, cover the shapes of the design, and are padded as their names say."""

from itertools import pairwise

import numpy as np
import pytest
from gpt2_export.verification.sweep import Case, cases

CONTEXTS = [1, 2, 3, 5, 64, 1024]


def sweep(n_positions: int) -> dict[str, Case]:
    sweep_cases = cases(vocab_size=97, n_positions=n_positions)
    assert len({case.name for case in sweep_cases}) == len(sweep_cases)
    return {case.name: case for case in sweep_cases}


@pytest.mark.parametrize("n_positions", CONTEXTS)
def test_every_case_fits_the_context_and_the_vocabulary(n_positions: int) -> None:
    for case in sweep(n_positions).values():
        batch, length = case.input_ids.shape
        assert case.attention_mask.shape == case.position_ids.shape == (batch, length)
        assert 0 <= case.past < length <= n_positions
        assert case.input_ids.dtype == case.attention_mask.dtype == case.position_ids.dtype == np.int64
        assert 0 <= case.input_ids.min() <= case.input_ids.max() < 97
        assert 0 <= case.position_ids.min() <= case.position_ids.max() < n_positions


@pytest.mark.parametrize("n_positions", CONTEXTS)
def test_the_last_position_is_read(n_positions: int) -> None:
    assert max(case.position_ids.max() for case in sweep(n_positions).values()) == n_positions - 1


@pytest.mark.parametrize("n_positions", CONTEXTS)
def test_every_row_has_text_to_compare(n_positions: int) -> None:
    for case in sweep(n_positions).values():
        assert case.attention_mask[:, case.past :].any(axis=1).all(), case.name


@pytest.mark.parametrize("n_positions", CONTEXTS)
def test_positions_count_the_text_and_skip_the_padding(n_positions: int) -> None:
    for case in sweep(n_positions).values():
        for positions, mask in zip(case.position_ids, case.attention_mask, strict=True):
            assert positions[mask == 1].tolist() == list(range(mask.sum())), case.name


def test_gpt2s_own_context_has_the_cases_of_the_design() -> None:
    sweep_cases = sweep(1024)
    shapes = {
        (case.input_ids.shape[0], case.past, case.input_ids.shape[1] - case.past)
        for case in sweep_cases.values()
        if case.attention_mask.all()
    }
    assert shapes == {
        (1, 0, 1), (1, 0, 24), (3, 0, 24), (3, 1, 1), (3, 1, 24), (3, 24, 1), (3, 24, 12), (1, 1023, 1), (1, 512, 512),
    }  # fmt: skip
    assert {name for name, case in sweep_cases.items() if not case.attention_mask.all()} == {
        "left-padded prompts",
        "12 tokens after 24, left-padded",
        "right-padded prompts",
    }


@pytest.mark.parametrize("n_positions", [5, 64, 1024])
def test_padding_is_on_the_side_of_the_name_from_none_to_all_but_one(n_positions: int) -> None:
    for name, case in sweep(n_positions).items():
        if "padded" not in name:
            assert case.attention_mask.all(), name
            continue
        length = case.input_ids.shape[1]
        assert (length - case.attention_mask.sum(axis=1)).tolist() == [0, 1, length - 1]
        for row in case.attention_mask:
            steps = [int(after) - int(before) for before, after in pairwise(row)]
            assert set(steps) <= ({0, 1} if "left" in name else {0, -1}), name


def test_numbers_in_a_name_are_those_of_the_case() -> None:
    for name, case in sweep(64).items():
        if " tokens after " in name:
            new, past = name.split(",")[0].replace("one", "1").split(" tokens after ")
            assert (case.input_ids.shape[1] - case.past, case.past) == (int(new), int(past))


def test_a_seed_repeats_its_ids_and_another_seed_does_not() -> None:
    first, again, other = (cases(vocab_size=97, n_positions=64, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a.input_ids, b.input_ids) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a.input_ids, b.input_ids) for a, b in zip(first, other, strict=True))
