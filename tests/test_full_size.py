"""The ladder at the published model's size: 124 million weights from transformers' initialiser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import backends
import numpy as np
import pytest
import torch
from gpt2_model import GPT2
from gpt2_model import generate as scratch_generate
from gpt2_runtime import GREEDY, PrefixCache, Session, Token
from gpt2_runtime import generate as runtime_generate
from gpt2_runtime.engine import packed_session
from gpt2_runtime.graphs.graph_signature import GraphKind
from mutants import MUTANTS
from safetensors import safe_open
from sweep import Array, Case, Step, assert_case, cases, greedy
from tolerances import TOLERANCES, atol
from transformers import GPT2LMHeadModel

RUNG = ("full size", "cpu", "float32")
PROMPT = [464, 3290, 373]
PLACES = ("1 x 1", "3 x 11+7 left", "3 x 11+7 right", "1 x 3+1+4+1+5", "1 x 1023+1")


@pytest.fixture(scope="module", autouse=True)
def _both_cores() -> Iterator[None]:
    """Two threads, which would be too many for the small networks of the other rungs."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network(full_size: Any) -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(full_size.source, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def folder(full_size: Any) -> Path:
    return full_size.folder


@pytest.fixture(scope="module")
def reference(network: GPT2LMHeadModel) -> Step:
    """transformers, remembering its results without a cache: they cost seconds here."""
    step, known = backends.transformers(network), {}

    def remembered(ids: Array, mask: Array, cache: Any) -> tuple[Array, Any]:
        assert cache is None
        text = ids.shape, ids.tobytes(), mask.tobytes()
        if text not in known:
            known[text] = step(ids, mask, None)[0]
        return known[text], None

    return remembered


@pytest.fixture(scope="module")
def chosen() -> list[Case]:
    """Part of the sweep: a case costs seconds here."""
    chosen = [case for case in cases(vocab_size=50257, n_positions=1024) if case.name in PLACES]
    assert len(chosen) == len(PLACES)
    return chosen


@pytest.mark.parametrize("backend", ["scratch", "graph", "serving", "session", "session, not packed"])
def test_logits_are_those_of_transformers(
    backend: str, reference: Step, folder: Path, chosen: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_session, "UNPACKED_TOKENS", 10**9)
    tried = {
        "scratch": lambda: backends.scratch(GPT2.from_pretrained(folder)),
        "graph": lambda: backends.graph(folder / "model.onnx"),
        "serving": lambda: backends.serving(folder / "model_serving.onnx", 1024),
        "session": lambda: backends.runtime(Session.open(folder)),
        "session, not packed": lambda: backends.runtime(Session.open(folder, prepack=False)),
    }[backend]()
    for case in chosen:
        assert_case(reference, tried, case, atol(*RUNG))


def test_a_bug_is_beyond_the_tolerance_at_this_size_too(
    reference: Step, folder: Path, chosen: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = GPT2.from_pretrained(folder)
    MUTANTS[TOLERANCES[RUNG].must_catch].make(tried, monkeypatch)
    with pytest.raises(AssertionError, match="a logit differs by"):
        assert_case(reference, backends.scratch(tried), chosen[1], atol(*RUNG))


@pytest.mark.parametrize("count", [4, pytest.param(64, marks=pytest.mark.nightly)])
def test_greedy_tokens_are_the_same_everywhere(network: GPT2LMHeadModel, folder: Path, count: int) -> None:
    expected = list(greedy(backends.transformers(network), PROMPT, count))
    assert list(scratch_generate(GPT2.from_pretrained(folder), PROMPT, max_new_tokens=count)) == expected
    assert list(greedy(backends.graph(folder / "model.onnx"), PROMPT, count)) == expected
    assert list(greedy(backends.serving(folder / "model_serving.onnx", 1024), PROMPT, count)) == expected
    for prepack in (True, False):  # False: packed on the way
        session = Session.open(folder, prepack=prepack)
        events = runtime_generate(session, PROMPT, max_new_tokens=count, sampling=GREEDY, stop_token_ids=())
        assert [event.id for event in events if isinstance(event, Token)] == expected


@pytest.mark.nightly  # tests/test_promise.py has the same at width 768
@pytest.mark.parametrize("graph", ["serving", "portable"])
def test_a_prompt_that_starts_like_an_earlier_one_has_the_same_bits(graph: GraphKind, folder: Path) -> None:
    """With heads and chunks of the published size, and two threads."""
    session = Session.open(folder, graph=graph, threads=2)
    text, other = np.random.default_rng(0).integers(50257, size=(2, 400)).tolist()
    prefixes, reused = PrefixCache(session, max_bytes=2**28), []
    for shared, length in ((130, 130), (100, 129), (128, 200), (300, 300), (257, 257), (290, 385), (299, 310)):
        ids = [*text[:shared], *other[shared:length]]
        expected, whole = session.step([ids], session.empty_cache())
        cache, count = prefixes.restore(session.empty_cache(), ids, length)
        actual, cache = session.step([ids[count:]], cache)
        np.testing.assert_array_equal(actual, expected)
        np.testing.assert_array_equal(cache.snapshot(0, length).array, whole.snapshot(0, length).array)
        prefixes.keep(ids, cache)
        reused.append(count)
    assert reused == [0, 0, 128, 128, 0, 256, 288]  # 256 of 257 would leave a single token


def test_no_weight_is_stored_twice(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        sizes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (it is not a dict)
    tensors = 4 * sum(torch.Size(shape).numel() for shape in sizes)
    assert tensors == 4 * 124_439_808
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 1.02 * tensors
    assert (folder / "model_serving.onnx").stat().st_size < 100_000


def test_transformers_opens_the_folder_and_computes_the_same(network: GPT2LMHeadModel, folder: Path) -> None:
    again = GPT2LMHeadModel.from_pretrained(folder)
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        assert torch.equal(again.eval().get_input_embeddings()(ids), network.get_input_embeddings()(ids))
        difference = (again(ids).logits - network(ids).logits).abs().max().item()
    assert difference <= atol(*RUNG)
