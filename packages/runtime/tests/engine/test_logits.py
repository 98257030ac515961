"""Logits on a device, tried where there is none: they lie on the CPU, but go by the device's road."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from gpt2_runtime import GREEDY, LookupConfig, SamplingConfig, Session, TextGenerator
from gpt2_runtime.engine import logits as scores
from gpt2_runtime.engine import ort_values, portable_graph, serving_graph
from gpt2_runtime.engine.buffers import DeviceBuffers, on_device
from gpt2_runtime.engine.logits import LEAST_ROWS, MOST, DeviceLogits, HostLogits
from gpt2_runtime.engine.session import open_inference
from gpt2_runtime.engine.top_k import GRAPH, TopK
from gpt2_runtime.errors import LogitsError, SettingError
from gpt2_runtime.providers.providers import choose_provider
from gpt2_runtime.sampling.top_logits import TopLogits
from gpt2_runtime.text.batch import Prompt, complete_batch

N, V = 12, 1000
LOGITS = np.random.default_rng(0).standard_normal((N, V)).astype(np.float32)


@pytest.fixture(scope="module")
def top_k():
    return TopK(partial(open_inference, GRAPH, choose_provider("cpu"), 1, True), "cpu")


@pytest.fixture
def bring(cuda_runtime, monkeypatch):
    """Makes logits lie on the device; and the bytes of each copy to the host from then on."""
    brought = []
    right = scores.cuda_memory.bring
    monkeypatch.setattr(
        scores.cuda_memory, "bring", lambda array, address: brought.append(array.nbytes) or right(array, address)
    )
    return lambda logits: (DeviceLogits(logits, int(logits.ctypes.data), logits.shape), brought)


def test_all_of_them_are_brought_at_once(bring):
    there, brought = bring(LOGITS)
    np.testing.assert_array_equal(there.all(), LOGITS)
    assert brought == [LOGITS.nbytes]


@pytest.mark.parametrize(("groups", "count"), [(1, 1), (1, 12), (3, 0), (3, 1), (3, 4), (12, 1)])
def test_the_ends_of_groups_are_brought_alone(bring, cuda_runtime, groups, count):
    there, _ = bring(LOGITS)
    expected = LOGITS.reshape(groups, -1, V)[:, N // groups - count :]
    np.testing.assert_array_equal(there.ends(groups, count), expected)
    np.testing.assert_array_equal(HostLogits(LOGITS).ends(groups, count), expected)
    assert cuda_runtime.started == 0, "no one has waited for a copy"


def test_of_rows_that_need_few_only_those_come(bring, top_k):
    there, brought = bring(LOGITS)
    counts = [1, 5, None, MOST, MOST + 1, *[2] * 7]
    rows = there.rows(counts, top_k)
    assert brought == [V * 4] * 2
    for row, count, logits in zip(rows, counts, LOGITS, strict=True):
        if count is None or count > MOST:
            np.testing.assert_array_equal(row, logits)
        else:
            assert row.ids.tolist() == sorted(np.argsort(-logits)[:count].tolist())


def test_a_row_with_more_ties_than_are_found_comes_whole(bring, top_k):
    logits = LOGITS.copy()
    logits[3, 100:200] = 9
    logits[5, 7] = np.nan
    there, brought = bring(logits)
    rows = there.rows([1] * N, top_k)
    assert brought == [V * 4] * 2
    assert [place for place, row in enumerate(rows) if not isinstance(row, TopLogits)] == [3, 5]
    np.testing.assert_array_equal(rows[3], logits[3])


@pytest.mark.parametrize("counts", [[1] * (LEAST_ROWS - 1), [None] * N, [MOST + 1] * N])
def test_where_nothing_is_saved_all_come_in_one_copy(bring, top_k, counts):
    there, brought = bring(LOGITS[: len(counts)])
    for row, logits in zip(there.rows(counts, top_k), LOGITS, strict=False):
        np.testing.assert_array_equal(row, logits)
    assert brought == [len(counts) * V * 4]


def test_without_a_finder_all_come(bring):
    there, _ = bring(LOGITS)
    np.testing.assert_array_equal(there.rows([1] * N, None), LOGITS)


@pytest.fixture(params=["fp32 serving", "fp16 serving", "int4 serving", "fp32 portable"])
def host(request, folder):
    precision, graph = request.param.split()
    return Session.open(folder, precision=precision, graph=graph, threads=1)


@pytest.fixture
def moved(monkeypatch, cuda_runtime, top_k):
    """Has a session's caches and logits take the device's road, even a single row of them."""

    def move(session):
        monkeypatch.setattr(
            serving_graph,
            "allocated",
            lambda shape, dtype, tensors: DeviceBuffers(on_device(shape, dtype, tensors.device)),
        )
        monkeypatch.setattr(ort_values, "remote", lambda tensor: True)
        monkeypatch.setattr(portable_graph, "remote", lambda tensor: True)
        monkeypatch.setattr(scores, "LEAST_ROWS", 1)
        return replace(session, opened=replace(session.opened, top_k=top_k))

    return move


def texts(session):
    generator = TextGenerator(session=session, tokenizer=None)
    found = []
    for sampling in (
        GREEDY,
        SamplingConfig(top_k=5),
        SamplingConfig(top_k=40, top_p=0.9, temperature=0.7),
        SamplingConfig(top_k=290, min_p=0.01),
        SamplingConfig(top_k=20, typical_p=0.8),
        SamplingConfig(top_p=0.9),
        SamplingConfig(top_k=5, repetition_penalty=1.2),
    ):
        settings = {"max_new_tokens": 20, "stop_token_ids": (), "sampling": sampling, "seed": 1}
        found.append(generator.complete([5, 6, 7] * 4, **settings).token_ids)
        found.append(generator.complete([5, 6, 7] * 4, lookup=LookupConfig(), **settings).token_ids)
        found.append(generator.complete([5, 6, 7], logprobs=2, **settings).logprobs)
        rows = 3 if session.graph == "serving" else 1
        prompts = [Prompt(prompt=[id_] * id_, settings=settings | {"seed": id_}, n=2) for id_ in range(5, 9)]
        for result in complete_batch(generator, prompts, rows=rows):
            found.append((result.index, [each.token_ids for each in result.completions]))
    return found


def test_texts_are_those_of_the_host(host, moved, monkeypatch):
    expected = texts(host)
    there = moved(host)
    listed = []
    right = scores.top_logits
    monkeypatch.setattr(scores, "top_logits", lambda *given: listed.append(right(*given)) or listed[-1])
    assert texts(there) == expected
    assert sum(found is not None for rows in listed for found in rows) > 300


@pytest.mark.parametrize("chunk", [7, 256])
def test_logits_are_those_of_the_host(host, moved, monkeypatch, chunk):
    """Also where a run gives none of those requested."""
    monkeypatch.setattr(serving_graph, "PREFILL_CHUNK", chunk)
    monkeypatch.setattr(portable_graph, "PREFILL_CHUNK", chunk)
    ids = np.random.default_rng(0).integers(300, size=(2, 40))

    def steps(session):
        logits, cache = session.step(ids[:, :30], session.empty_cache(2), logits_to_keep=20)
        again, cache = session.step(ids[:, 30:31], cache)
        return logits, again, session.step(ids[:, 31:], cache, logits_to_keep=9)[0]

    expected = steps(host)
    for ours, theirs in zip(steps(moved(host)), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_damaged_logits_are_reported_as_on_the_host(host, moved, monkeypatch):
    there = moved(host)
    right = TopK.highest
    monkeypatch.setattr(
        TopK, "highest", lambda *given: right(*given)._replace(finite=np.zeros(len(right(*given).finite), bool))
    )
    monkeypatch.setattr(DeviceLogits, "_row", lambda self, place: np.full(300, np.nan, np.float32))
    with pytest.raises(LogitsError, match="highest logit is nan"):
        TextGenerator(session=there, tokenizer=None).complete([5, 6, 7], max_new_tokens=3, sampling=GREEDY)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1], "counts are 1, the step has 2 rows; pass one for each"),
        ([1, 0], "count is 0, must be an integer of at least 1; None needs all logits"),
        ([True, 1], "count is True, must be"),
        ([1, 2.5], "count is 2.5, must be"),
    ],
)
def test_what_is_no_count_for_each_row_is_refused(session, counts, message):
    with pytest.raises(SettingError, match=f"^{message}"):
        session.step_top_k([[5], [6]], session.empty_cache(2), counts)


def test_of_ragged_rows_each_has_what_it_read(session):
    rows, _ = session.step_top_k([[5, 6, 7], [], [8]], session.empty_cache(3), [None] * 3, 2)
    logits, _ = session.step([[5, 6, 7], [], [8]], session.empty_cache(3), 2)
    assert [len(row) for row in rows] == [2, 0, 1]
    np.testing.assert_array_equal(rows[0], logits[0])
    np.testing.assert_array_equal(rows[2][0], logits[2, 1])
