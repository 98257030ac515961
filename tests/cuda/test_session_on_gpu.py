"""The runtime on a GPU (the portable graph) against the runtime on the CPU (the serving one), on the committed folder.

Skipped where there is no GPU.
"""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from gpt2_runtime import GREEDY, LookupConfig, Session, Token, generate
from gpt2_runtime.errors import SettingError

TINY = Path(__file__).parents[2] / "packages/runtime/tests/data/tiny"
# float32 with TF32 off; it must still catch TF32 itself, which costs 1e-2 on these weights.
ATOL = 1e-4


def gpus() -> str:
    """What nvidia-smi lists, one line a GPU; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return found.stdout if found.returncode == 0 else ""


pytestmark = pytest.mark.skipif(not gpus(), reason="no NVIDIA GPU on this machine (nvidia-smi lists none)")


@pytest.fixture(scope="module")
def sessions() -> tuple[Session, Session]:
    return Session.open(TINY, provider="cpu"), Session.open(TINY, provider="cuda")


def test_logits_are_the_cpus_for_prompts_steps_and_batches(sessions: tuple[Session, Session]) -> None:
    rng = np.random.default_rng(0)
    for batch, chunks in ((1, (1,)), (1, (20, 1, 1)), (3, (7, 5, 1)), (1, (63, 1))):
        caches = [session.empty_cache(batch) for session in sessions]
        for chunk in chunks:
            ids = rng.integers(300, size=(batch, chunk))
            logits = []
            for number, session in enumerate(sessions):
                found, caches[number] = session.step(ids, caches[number], logits_to_keep=chunk)
                logits.append(found)
            np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=ATOL)


def test_the_graph_is_one_that_the_gpu_has_kernels_for(sessions: tuple[Session, Session]) -> None:
    assert [session.graph for session in sessions] == ["serving", "portable"]
    with pytest.raises(SettingError, match="graph is 'serving', which has no float32 kernel on cuda"):
        Session.open(TINY, provider="cuda", graph="serving")


def test_a_roll_back_is_never_having_stepped(sessions: tuple[Session, Session]) -> None:
    rng = np.random.default_rng(0)
    ids, more = rng.integers(300, size=(2, 20)), rng.integers(300, size=(2, 3))
    logits = []
    for session in sessions:
        _, cache = session.step(ids, session.empty_cache(2))
        _, cache = session.step(more[:, ::-1], cache)
        logits.append(session.step(more, cache.rolled_back(20), logits_to_keep=3)[0])
    np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=ATOL)


def test_greedy_tokens_are_the_cpus(sessions: tuple[Session, Session]) -> None:
    def tokens(session: Session, lookup: LookupConfig | None = None) -> list[int]:
        events = generate(session, [5, 6, 7], max_new_tokens=60, sampling=GREEDY, stop_token_ids=(), lookup=lookup)
        return [event.id for event in events if isinstance(event, Token)]

    assert tokens(sessions[1]) == tokens(sessions[0])
    assert tokens(sessions[1], LookupConfig()) == tokens(sessions[0])
