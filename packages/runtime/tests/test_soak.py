"""Memory after a thousand requests of varying lengths is what it was before them; and the test would see a leak."""

import ctypes
import gc
from collections.abc import Callable

import numpy as np
import pytest
from gpt2_runtime import Session, generate
from gpt2_runtime.engine import buffers as module
from gpt2_runtime.engine import packed_session

WARM, REQUESTS = 200, 1000
BOUND = 2_000_000  # without a leak the measure moves by 0.3 MB; those below cost 5 MB and more in a fifth of the time


def requests(session: Session, rng: np.random.Generator) -> Callable[[], None]:
    """One prompt and its text, with a cache of its own."""

    def request() -> None:
        prompt = rng.integers(0, 300, size=rng.integers(1, 60))
        for _ in generate(session, prompt, max_new_tokens=int(rng.integers(1, 12)), stop_token_ids=()):
            pass

    return request


def slots(session: Session, rng: np.random.Generator) -> Callable[[], None]:
    """One prompt into a row of a cache that lives as long as a server does, and some steps of all rows."""
    rows = 4
    cache = session.empty_cache(rows)

    def request() -> None:
        nonlocal cache
        row, length = int(rng.integers(rows)), int(rng.integers(1, 60))
        cache = cache.crop([0 if other == row else min(has, 50) for other, has in enumerate(cache.lengths)])
        prompt = [rng.integers(0, 300, size=length) if other == row else [] for other in range(rows)]
        _, cache = session.step(prompt, cache, int(rng.integers(1, length + 1)))
        for _ in range(3):
            _, cache = session.step([rng.integers(0, 300, size=1) for _ in range(rows)], cache)

    return request


def growth(request: Callable[[], None], count: int, resident: Callable[[], int]) -> int:
    """The bytes that the process holds more after `count` requests, once it is warm."""
    for _ in range(WARM):
        request()
    _give_back()
    before = resident()
    for _ in range(count):
        request()
    _give_back()
    return resident() - before


def _give_back() -> None:
    """What is free goes to the system: else a leak fills first what other tests have left free, and is not seen."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc has it
        libc.malloc_trim(0)


@pytest.mark.parametrize("kind", [requests, slots])
def test_memory_is_flat(serving, resident, kind):
    assert growth(kind(serving, np.random.default_rng(0)), REQUESTS, resident) < BOUND


def test_memory_is_flat_on_the_portable_graph(portable, resident):
    assert growth(requests(portable, np.random.default_rng(0)), REQUESTS // 5, resident) < BOUND


@pytest.mark.once
def test_a_table_of_bindings_without_bound_would_be_seen(serving, resident, monkeypatch):
    monkeypatch.setattr(packed_session, "BINDINGS", 10**9)
    assert growth(slots(serving, np.random.default_rng(0)), REQUESTS // 2, resident) > BOUND


@pytest.mark.once
def test_caches_that_are_kept_would_be_seen(serving, resident, monkeypatch):
    kept, made = [], module.HostBuffers

    def keep(*arguments):
        kept.append(made(*arguments))
        return kept[-1]

    monkeypatch.setattr(module, "HostBuffers", keep)
    assert growth(requests(serving, np.random.default_rng(0)), REQUESTS // 5, resident) > BOUND
