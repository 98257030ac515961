"""The serving graph behind the same call as the others: no padding, each row in its own slot of the cache."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from gpt2_export.errors import GraphError
from gpt2_export.graphs.portable import PORTABLE
from gpt2_export.graphs.serving import SERVING
from gpt2_export.verification import backends
from gpt2_model import GPT2


@pytest.fixture(scope="module")
def step(made: Path) -> backends.Step:
    return backends.serving(made)


def read(
    step: backends.Step, ids: np.ndarray, mask: np.ndarray, chunks: tuple[int, ...]
) -> tuple[np.ndarray, list[object]]:
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    logits, caches, start, cache = [], [], 0, None
    for size in chunks:
        end = start + size
        part, cache = step(ids[:, start:end], mask[:, :end], positions[:, start:end], cache)
        logits.append(part)
        caches.append(cache)
        start = end
    return np.concatenate(logits, axis=1), caches


@pytest.mark.parametrize("chunks", [(9,), (4, 5), (4, 1, 4), (1,) * 9], ids=str)
@pytest.mark.parametrize("padding", ["none", "left", "right", "whole first calls", "in between"])
def test_each_row_gives_the_logits_of_its_text_alone_and_nan_elsewhere(
    step: backends.Step, model: GPT2, padding: str, chunks: tuple[int, ...]
) -> None:
    ids = np.random.default_rng(0).integers(300, size=(3, 9))
    mask = np.ones_like(ids)
    for row, place in {
        "none": [],
        "left": [(1, slice(0, 1)), (2, slice(0, 3))],
        "right": [(1, slice(8, 9)), (2, slice(2, 9))],
        "whole first calls": [(0, slice(0, 5)), (2, slice(0, 8))],
        "in between": [(0, slice(2, 5)), (1, slice(4, 6))],
    }[padding]:
        mask[row, place] = 0
    actual, _ = read(step, ids, mask, chunks)
    assert np.isnan(actual[mask == 0]).all()
    for row in range(3):
        text = mask[row] == 1
        with torch.no_grad():
            alone = model(torch.from_numpy(ids[row][text][None]))[0][0].numpy()
        np.testing.assert_allclose(actual[row][text], alone, rtol=0, atol=1e-4)


def test_rows_are_read_together_if_the_operator_allows_it(
    made: Path, step: backends.Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[tuple[int, ...]] = []
    run = backends._run_in_place

    def counted(session: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray], pasts: dict[str, np.ndarray]):  # type: ignore[no-untyped-def]
        batches.append(feeds["input_ids"].shape)
        return run(session, feeds, pasts)

    monkeypatch.setattr(backends, "_run_in_place", counted)
    ids = np.zeros((3, 8), np.int64)
    mask = np.ones_like(ids)
    mask[1, 2:4] = 0  # its first call is two tokens, on the left
    read(step, ids, mask, (4, 1, 3))
    assert batches == [(3, 4), (3, 1), (1, 3), (1, 3), (1, 3)]


def test_the_cache_is_one_allocation_that_every_step_writes(step: backends.Step) -> None:
    ids = np.ones((2, 6), np.int64)
    _, caches = read(step, ids, np.ones_like(ids), (4, 1, 1))
    (first, _), *_, (last, lengths) = caches  # type: ignore[misc]
    assert all(last[name] is array for name, array in first.items())
    assert {array.shape for array in last.values()} == {(2, 2, 24, 8)}
    assert lengths.tolist() == [6, 6]
    for array in last.values():
        assert np.all(np.abs(array[:, :, :6]).max(axis=(1, 3)) > 0)
        assert not array[:, :, 6:].any()


def test_the_cache_beyond_a_rows_text_is_never_read(step: backends.Step) -> None:
    ids = np.random.default_rng(0).integers(300, size=(2, 7))
    ones, positions = np.ones_like(ids), np.arange(7)[None].repeat(2, axis=0)
    expected, _ = read(step, ids, ones, (5, 1, 1))
    _, (slots, lengths) = step(ids[:, :5], ones[:, :5], positions[:, :5], None)
    for array in slots.values():
        array[:, :, 5:] = np.nan
    for end in (6, 7):
        actual, (slots, lengths) = step(
            ids[:, end - 1 : end], ones[:, :end], positions[:, end - 1 : end], (slots, lengths)
        )
        np.testing.assert_array_equal(actual[:, 0], expected[:, end - 1])


def test_a_shorter_length_rolls_back(step: backends.Step) -> None:
    ids = np.random.default_rng(0).integers(300, size=(2, 9))
    ones, positions = np.ones_like(ids), np.arange(9)[None].repeat(2, axis=0)
    expected, _ = read(step, ids, ones, (9,))
    _, (slots, lengths) = step(ids[:, :6], ones[:, :6], positions[:, :6], None)
    _, (slots, _) = step(ids[::-1, 6:], ones, positions[:, 6:], (slots, lengths))  # another text, to be dropped
    actual, _ = step(ids[:, 6:], ones, positions[:, 6:], (slots, lengths))
    np.testing.assert_allclose(actual, expected[:, 6:], rtol=0, atol=1e-4)


def test_a_graph_that_onnxruntime_does_not_load_is_an_error_that_names_it(made_copy: Path) -> None:
    for kind, opened in ((PORTABLE, backends.portable), (SERVING, backends.serving)):
        (made_copy / kind.file).write_bytes(b"this is not a graph")
        with pytest.raises(GraphError, match=f"onnxruntime cannot load .*{kind.file}"):
            opened(made_copy)


def test_every_graph_in_the_folder_is_a_backend(made_copy: Path) -> None:
    def names() -> list[str]:
        return [b.name.partition("cpu, ")[2] for b in backends.available(made_copy) if "onnxruntime" in b.name]

    assert backends.available(made_copy)[0].name.startswith("torch ")
    assert names() == ["portable", "serving"]
    (made_copy / SERVING.file).unlink()
    assert names() == ["portable"]
