"""256 greedy tokens on a GPU are the CPU's, on the demo and on 124M random weights.

The tests need a GPU and the folders from `folders.py`: `tox -e gpu`.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from gpt2_runtime import GREEDY, LookupConfig, Session, TextGenerator, beam_search
from gpt2_runtime.generation.config import Settings
from gpus import gpus

pytestmark = pytest.mark.skipif(not gpus(), reason="no NVIDIA GPU on this machine (nvidia-smi lists none)")

PROMPT = [46, 32, 37]
TOKENS = 256
# For logits of float16 on the GPU against float32 on the CPU. A guess until it is measured on a GPU, like those in
# test_session_on_gpu.py; float16 on the CPU, which accumulates in float32, is within it.
ATOL = 5e-2


@pytest.fixture(scope="module", params=["demo", "random"])
def folder(request: pytest.FixtureRequest) -> Path:
    place = os.environ.get("GPU_FOLDERS")
    if not place:
        pytest.skip("GPU_FOLDERS names no folder made by tests/cuda/folders.py (tox -e gpu)")
    return Path(place) / str(request.param)


def tokens(folder: Path, provider: str, lookup: LookupConfig | None = None) -> tuple[int, ...]:
    """The demo's context is 256 tokens, so it slides."""
    generator = TextGenerator(session=Session.open(folder, provider=provider, precision="fp32"), tokenizer=None)
    settings = Settings(max_new_tokens=TOKENS, sampling=GREEDY, stop_token_ids=(), overflow="slide")
    actual = generator.complete(PROMPT, lookup=lookup, **settings).token_ids
    assert len(actual) == TOKENS
    return actual


@pytest.mark.parametrize("lookup", [None, LookupConfig()], ids=["plain", "lookup"])
def test_greedy_tokens_in_float32_are_the_cpus(folder: Path, lookup: LookupConfig | None) -> None:
    assert tokens(folder, "cuda", lookup) == tokens(folder, "cpu")


def test_beams_in_float32_are_the_cpus(folder: Path) -> None:
    actual, expected = (
        beam_search(Session.open(folder, provider=name, precision="fp32"), [5, 6, 7], num_beams=4, max_new_tokens=64)
        for name in ("cuda", "cpu")
    )
    assert [beam.token_ids for beam in actual] == [beam.token_ids for beam in expected]


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["plain", "captured"])
def test_float16_is_within_its_tolerance_and_free_of_nan(folder: Path, cuda_graph: bool) -> None:
    """Over a prompt in chunks, then steps with tokens that the CPU chose."""
    cpu = Session.open(folder, provider="cpu", precision="fp32")
    gpu = Session.open(folder, provider="cuda", precision="fp16", cuda_graph=cuda_graph)
    sizes = cpu.bundle.architecture
    steps = min(TOKENS, sizes.n_positions // 2)
    ids = np.random.default_rng(0).integers(sizes.vocab_size, size=(2, min(300, sizes.n_positions - steps)))
    caches = [session.empty_cache(2) for session in (cpu, gpu)]
    for _ in range(steps):
        expected, caches[0] = cpu.step(ids, caches[0])
        actual, caches[1] = gpu.step(ids, caches[1])
        assert np.isfinite(actual).all()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=ATOL)
        ids = expected[:, -1].argmax(-1)[:, None]


def test_a_captured_step_equals_a_plain_one(folder: Path) -> None:
    """Up to float16 rounding: the captured step splits the keys for the longest text."""
    ids = np.random.default_rng(1).integers(250, size=(3, 20))
    actual = []
    for cuda_graph in (False, True):
        session = Session.open(folder, provider="cuda", precision="fp16", cuda_graph=cuda_graph)
        logits = []
        for _ in range(2):  # the second cache reuses the first one's memory
            _, cache = session.step(ids, session.empty_cache(3))
            for column in range(8):
                step, cache = session.step(ids[:, column : column + 1], cache)
                logits.append(step)
        actual.append(np.stack(logits))
    np.testing.assert_allclose(actual[1], actual[0], rtol=0, atol=ATOL)
    np.testing.assert_array_equal(actual[1][:8], actual[1][8:])
