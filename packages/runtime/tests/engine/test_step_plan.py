"""Lengths in, runs out: whatever the rows, every token is read once, in order, by runs that the graph can do."""

from itertools import chain

import numpy as np
import pytest
from gpt2_runtime.engine.step_plan import RUN_COST, GraphCall, feeds, logit_slots, plan
from hypothesis import given
from hypothesis import strategies as st

ROWS = st.lists(st.tuples(st.integers(0, 3) | st.integers(0, 40), st.integers(0, 2) | st.integers(0, 60)), min_size=1)


@given(rows=ROWS, chunk=st.integers(1, 64))
def test_every_token_is_read_once_in_order_by_runs_that_the_graph_can_do(rows, chunk):
    past, new = zip(*rows, strict=True)
    read = [0] * len(rows)
    for run in plan(past, new, chunk):
        assert run.tokens >= 1
        assert run.tokens <= chunk
        assert 0 <= run.first <= run.first + len(run.reads) <= len(rows)
        for row, reads in enumerate(run.reads, run.first):
            if reads:
                assert reads.start == read[row]
                read[row] = reads.stop
        if len(run.reads) > 1 and run.tokens > 1:
            assert all(past[row] == 0 == reads.start and reads for row, reads in enumerate(run.reads, run.first))
            assert run.tokens * len(run.reads) - sum(map(len, run.reads)) <= RUN_COST * (len(run.reads) - 1)
    assert read == list(new)


@given(rows=ROWS, chunk=st.integers(1, 64))
def test_what_is_written_for_an_idle_row_lies_beyond_its_text(rows, chunk):
    """The one token that a run computes for a row that does not read is written after all that the row has by then."""
    past, new = zip(*rows, strict=True)
    ids = [np.ones(count, dtype=np.int64) for count in new]
    has = list(past)
    for run in plan(past, new, chunk):
        for row, reads, end in zip(
            range(run.first, run.first + len(run.reads)),
            run.reads,
            feeds(run, ids, past, [1] * len(past))["seqlens_k"],
            strict=True,
        ):
            assert end == has[row] + max(1, len(reads)) - 1
            has[row] += len(reads)


@given(rows=ROWS, chunk=st.integers(1, 64), data=st.data())
def test_the_last_tokens_of_each_row_are_scored_once(rows, chunk, data):
    past, new = zip(*rows, strict=True)
    ids = [100 * row + np.arange(count) for row, count in enumerate(new)]
    keep = [data.draw(st.integers(0, count + 1)) for count in new]
    found = {}
    for run in plan(past, new, chunk):
        fed = feeds(run, ids, past, keep)
        scored = fed["input_ids"].ravel()[fed["logits_index"]]
        positions = fed["position_ids"].ravel()[fed["logits_index"]]
        for place, id_, position in zip(logit_slots(run, ids, keep), scored.tolist(), positions.tolist(), strict=True):
            assert place not in found
            assert position == past[place[0]] + id_ % 100
            found[place] = id_
    wanted = {
        (row, keep[row] - 1 - back): int(tokens[-1 - back])
        for row, tokens in enumerate(ids)
        for back in range(min(keep[row], len(tokens)))
    }
    assert found == wanted


@pytest.mark.parametrize(
    ("past", "new", "runs"),
    [
        pytest.param([5], [1], 1, id="one row, one token"),
        pytest.param([5, 9, 64], [1, 1, 1], 1, id="three rows, one token each"),
        pytest.param([5, 9, 64], [1, 0, 1], 1, id="an idle row between"),
        pytest.param([0, 0, 0], [7, 7, 7], 1, id="three prompts"),
        pytest.param([0, 0, 0], [7, 1, 3], 1, id="three prompts of different lengths"),
        pytest.param([0, 0], [1, 200], 2, id="padding that would cost more than a run"),
        pytest.param([0, 0], [200, 190], 2, id="more than a chunk together"),
        pytest.param([3, 0], [2, 2], 2, id="tokens over a past beside a prompt"),
        pytest.param([9, 9, 9], [2, 2, 2], 3, id="several tokens over a past"),
        pytest.param([0], [600], 3, id="a long prompt"),
        pytest.param([4, 4, 4], [1, 300, 1], 3, id="a long text between two of one token"),
        pytest.param([0, 0, 5, 5], [4, 4, 1, 1], 2, id="two prompts beside two of one token"),
    ],
)
def test_no_more_runs_than_are_needed(past, new, runs):
    assert len(plan(past, new, 256)) == runs


def test_rows_at_the_ends_that_do_not_read_are_left_out():
    (run,) = plan([5, 5, 5, 5], [0, 1, 1, 0], 256)
    assert run == GraphCall(1, (range(1), range(1)))


def test_rows_of_one_token_come_first():
    """So that what they write for a row that reads by itself is written over."""
    first, *rest = plan([5, 5, 5], [1, 9, 1], 256)
    assert first.tokens == 1
    assert list(chain.from_iterable(run.reads for run in rest)) == [range(9)]


def test_a_run_over_a_past_counts_on_from_it():
    fed = feeds(GraphCall(1, (range(2, 5),)), [np.array([1]), np.arange(10, 15)], [7, 40], keep=[2, 2])
    assert fed["input_ids"].tolist() == [[12, 13, 14]]
    assert fed["position_ids"].tolist() == [[42, 43, 44]]
    assert fed["seqlens_k"].tolist() == [44]
    assert fed["total_sequence_length"] == 45
    assert fed["logits_index"].tolist() == [1, 2]
    assert {name: array.dtype.name for name, array in fed.items()} == {
        "input_ids": "int64",
        "position_ids": "int64",
        "seqlens_k": "int32",
        "total_sequence_length": "int32",
        "logits_index": "int64",
    }


@given(rows=ROWS, chunk=st.integers(2, 32))
def test_an_even_plan_reads_the_same_by_runs_of_an_even_number_of_tokens(rows, chunk):
    """And none of several tokens by itself, which attention would sum in another order."""
    past, new = zip(*rows, strict=True)
    if len(rows) % 2:
        past, new = (*past, 0), (*new, 0)
    chunk *= 2
    read = [0] * len(past)
    for run in plan(past, new, chunk, even=True):
        assert run.tokens * len(run.reads) % 2 == 0
        assert run.tokens <= chunk + 1
        assert 0 <= run.first <= run.first + len(run.reads) <= len(past)
        fed = feeds(run, [np.ones(count, dtype=np.int64) for count in new], past, [3] * len(new), even=True)
        assert len(fed["logits_index"]) % 2 == 0
        assert fed["input_ids"].shape == (len(run.reads), run.tokens)
        for row, reads, end in zip(range(run.first, len(past)), run.reads, fed["seqlens_k"], strict=False):
            if reads:
                assert reads.start == read[row]
                assert new[row] == 1 or run.tokens > 1
                read[row] = reads.stop
            assert end <= past[row] + new[row]  # one more than the capacity
    assert read == list(new)
