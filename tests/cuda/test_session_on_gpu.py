"""The runtime on a GPU against the runtime on the CPU, on the committed folder, in every precision.

Skipped without a GPU.
"""

from pathlib import Path

import numpy as np
import pytest
from gpt2_runtime import GREEDY, LookupConfig, Session, Token, generate
from gpt2_runtime.engine import portable_graph, serving_graph
from gpt2_runtime.engine.logits import LEAST_ROWS, DeviceLogits
from gpt2_runtime.engine.portable_graph import PortableGraph
from gpt2_runtime.engine.serving_graph import ServingGraph
from gpt2_runtime.errors import SettingError
from gpt2_runtime.providers.providers import load_onnxruntime
from gpt2_runtime.sampling.top_logits import TopLogits
from gpus import gpus

TINY = Path(__file__).parents[2] / "packages/runtime/tests/data/tiny"
# float32 with TF32 off; it must still catch TF32 itself, which costs 1e-2 on these weights. In fp16 both round, each in
# its own way. With blocks only the CPU rounds activations. No GPU has run this yet: all but the first are upper
# guesses, to be replaced by measurements.
ATOL = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.3, "int4": 0.3}
PRECISIONS = list(ATOL)
Both = tuple[Session, Session]


pytestmark = pytest.mark.skipif(not gpus(), reason="no NVIDIA GPU on this machine (nvidia-smi lists none)")


@pytest.fixture(scope="module", params=PRECISIONS)
def both(request: pytest.FixtureRequest) -> Both:
    """The CPU's session, and the GPU's."""
    return tuple(Session.open(TINY, provider=name, precision=request.param) for name in ("cpu", "cuda"))  # type: ignore[return-value]


def assert_close(both: Both, results: list[np.ndarray]) -> None:
    cpu, gpu = results
    assert np.isfinite(gpu).all()
    np.testing.assert_allclose(gpu, cpu, rtol=0, atol=ATOL[both[0].precision])


@pytest.mark.parametrize(("batch", "chunks"), [(1, (1,)), (1, (20, 1, 1)), (3, (7, 5, 1)), (1, (63, 1)), (64, (3, 1))])
def test_logits_are_the_cpus_for_prompts_steps_and_batches(both: Both, batch: int, chunks: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    caches = [session.empty_cache(batch) for session in both]
    for chunk in chunks:
        ids = rng.integers(300, size=(batch, chunk))
        logits = []
        for number, session in enumerate(both):
            step_logits, caches[number] = session.step(ids, caches[number], logits_to_keep=chunk)
            logits.append(step_logits)
        assert_close(both, logits)


def test_the_gpu_has_kernels_for_the_chosen_graph(both: Both) -> None:
    cpu, gpu = both
    assert (cpu.graph, gpu.graph) == ("serving", "serving" if gpu.precision == "fp16" else "portable")
    assert gpu.placement is not None
    if gpu.graph == "portable":
        with pytest.raises(SettingError, match=f"graph is 'serving', which has no {gpu.precision} kernel on cuda"):
            Session.open(TINY, provider="cuda", precision=gpu.precision, graph="serving")


def test_a_prefill_in_chunks_is_one_prefill(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(1).integers(300, size=(1, 50))
    whole = [session.step(ids, session.empty_cache())[0] for session in both]
    monkeypatch.setattr(serving_graph, "DEVICE_CHUNK", 7)
    monkeypatch.setattr(portable_graph, "PREFILL_CHUNK", 7)
    parts = [session.step(ids, session.empty_cache())[0] for session in both]
    assert_close(both, parts)
    assert_close(both, [whole[1], parts[1]])


def test_rows_of_any_lengths_equal_the_rows_alone() -> None:
    """On the serving graph: the portable one's rows have one length."""
    session = Session.open(TINY, provider="cuda", precision="fp16")
    ids = np.random.default_rng(2).integers(300, size=60)
    rows, more = [ids[:1], ids[1:20], ids[20:60]], [ids[:3], [], ids[3:4]]
    logits, cache = session.step(rows, session.empty_cache(3))
    later, _ = session.step(more, cache)
    for row in range(3):
        alone, own = session.step([rows[row]], session.empty_cache())
        np.testing.assert_allclose(logits[row], alone[0], rtol=0, atol=ATOL["fp16"])
        if len(more[row]):
            alone, _ = session.step([more[row]], own)
            np.testing.assert_allclose(later[row], alone[0], rtol=0, atol=ATOL["fp16"])


def test_a_roll_back_undoes_a_step(both: Both) -> None:
    rng = np.random.default_rng(0)
    ids, more = rng.integers(300, size=(2, 20)), rng.integers(300, size=(2, 3))
    logits = []
    for session in both:
        _, cache = session.step(ids, session.empty_cache(2))
        _, cache = session.step(more[:, ::-1], cache)
        logits.append(session.step(more, cache.crop(20), logits_to_keep=3)[0])
    assert_close(both, logits)


def test_rows_are_reordered_copied_and_restored(both: Both) -> None:
    ids = np.random.default_rng(3).integers(300, size=(3, 9))
    logits = []
    for session in both:
        _, cache = session.step(ids, session.empty_cache(3))
        copied = cache.copy()
        reordered, cache = session.step([[5], [6], [7], [8]], cache.reorder([2, 0, 0, 1]))
        restored, _ = session.step([[5], [6], [7]], copied.restore(0, copied.snapshot(2, 9)))
        logits.append(np.concatenate([reordered, restored]))
    assert_close(both, logits)


@pytest.mark.parametrize("batch", [1, 16, 200])
def test_top_logits_are_those_of_the_step(both: Both, batch: int) -> None:
    """16 rows are searched on the device. Rounding gives some rows, not all, more ties than the search returns."""
    _, session = both
    ids = np.random.default_rng(4).integers(300, size=(batch, 3))
    counts = [(1, 5, None, 40)[row % 4] for row in range(batch)]
    logits, cache = session.step(ids, session.empty_cache(batch))
    tops, _ = session.step_top_k(ids[:, -1:], cache.crop(2), counts)
    for row, (one,), count in zip(logits[:, -1], tops, counts, strict=True):
        if isinstance(one, TopLogits):
            assert count is not None
            lowest = np.sort(one.logits)[-count]
            assert set(np.flatnonzero(row > lowest + ATOL[session.precision])) <= set(one.ids.tolist())
            np.testing.assert_allclose(one.logits, row[one.ids], rtol=0, atol=ATOL[session.precision])
        else:
            np.testing.assert_allclose(one, row, rtol=0, atol=ATOL[session.precision])
    searched = sum(isinstance(one, TopLogits) for (one,) in tops)
    assert searched >= batch // 4 if batch >= LEAST_ROWS else not searched


def test_damaged_logits_are_detected_on_the_gpu(both: Both) -> None:
    """Non-finite numbers, among enough rows to be searched there."""
    _, session = both
    logits = np.random.default_rng(5).standard_normal((16, 50257)).astype(np.float32)
    logits[3, 7], logits[5, 50256], logits[9, 0] = np.nan, np.inf, -np.inf
    value = load_onnxruntime().OrtValue.ortvalue_from_numpy(logits, "cuda")
    assert isinstance(session.opened, ServingGraph | PortableGraph)
    rows = DeviceLogits(value, value.data_ptr(), logits.shape).rows([20] * 16, session.opened.top_k)
    assert [place for place, row in enumerate(rows) if not isinstance(row, TopLogits)] == [3, 5, 9]
    for row, one in zip(logits, rows, strict=True):
        if isinstance(one, TopLogits):
            assert one.ids.tolist() == sorted(np.argsort(-row)[:20].tolist())
        else:
            np.testing.assert_array_equal(one, row)


@pytest.mark.parametrize("lookup", [None, LookupConfig()])
def test_greedy_tokens_are_the_cpus_in_float32(lookup: LookupConfig | None) -> None:
    def tokens(provider: str) -> list[int]:
        session = Session.open(TINY, provider=provider)
        events = generate(session, [5, 6, 7], max_new_tokens=60, sampling=GREEDY, stop_token_ids=(), lookup=lookup)
        return [event.id for event in events if isinstance(event, Token)]

    assert tokens("cuda") == tokens("cpu")
