"""The runtime on a GPU against the runtime on the CPU, on the committed folder; skipped where there is no GPU."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from gpt2_runtime import GREEDY, Session, Token, generate

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
                found, caches[number] = session.step(ids, caches[number])
                logits.append(found)
            np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=ATOL)


def test_greedy_tokens_are_the_cpus(sessions: tuple[Session, Session]) -> None:
    def tokens(session: Session) -> list[int]:
        events = generate(session, [5, 6, 7], max_new_tokens=60, sampling=GREEDY, stop_token_ids=())
        return [event.id for event in events if isinstance(event, Token)]

    assert tokens(sessions[1]) == tokens(sessions[0])
