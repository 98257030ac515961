"""Opens every precision of a folder on CUDA and prints, as JSON, where its operators run or why it is refused.

The argument is the folder; `test_without_a_gpu.py` runs it with a fake CUDA.
"""

import ctypes
import json
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
from gpt2_runtime import GREEDY, LookupConfig, Session, TextGenerator, beam_search
from gpt2_runtime.engine import serving_graph
from gpt2_runtime.engine.cache import Snapshot
from gpt2_runtime.errors import SettingError
from gpt2_runtime.explain.explainer import Explainer
from gpt2_runtime.generation.config import Settings
from gpt2_runtime.providers.placement import placed
from gpt2_runtime.providers.providers import PROVIDERS

TOKENS = 80  # more than the model reads at once


def main(folder: str) -> None:
    """The program."""
    found: dict[str, Any] = {}
    for precision in ("fp32", "fp16", "int8", "int4"):
        found[f"{precision} default"] = Session.open(folder, provider="cuda", precision=precision).graph
        session = Session.open(folder, provider="cuda", precision=precision, graph="portable")
        found[f"{precision} portable"] = asdict(session.placement) if session.placement else None
        grow_rows(session)
        search_rows(session)
        try:
            session = Session.open(folder, provider="cuda", precision=precision, graph="serving")
        except SettingError as error:
            found[f"{precision} serving"] = str(error)
            continue
        found[f"{precision} serving"] = asdict(session.placement) if session.placement else None
        move_rows(session)
        read_in_chunks(session)
        search_rows(session)
        found["top_k"] = searched(session)
    found["launches"] = {name: launches(folder, name == "captured") for name in ("plain", "captured")}
    found["texts"] = {
        f"{precision}{' captured' if captured else ''}": texts(folder, precision, captured)
        for precision, captured in [("fp16", True), *((name, False) for name in ("fp32", "fp16", "int8", "int4"))]
    }
    explainer = Explainer.open(folder, provider="cuda")
    placement = placed(explainer.inference, PROVIDERS["cuda"], explainer.bundle.architecture.n_layer)
    found["explaining"] = asdict(placement) if placement else None
    print(json.dumps(found))


def move_rows(session: Session) -> None:
    """Moves rows of a cache on the device without a kernel, and steps over it."""
    cache: Any = session.empty_cache(3, capacity=20)
    text = np.random.default_rng(0).random((*cache.layout[0][:3], 7, cache.layout[0][3])).astype(np.float16)
    snapshot = Snapshot(owner=cache.owner, array=text)
    moved = cache.restore(1, snapshot).reorder([1, 0, 1, 1]).crop(0).restore(2, snapshot).copy()
    np.testing.assert_array_equal(moved.snapshot(2, 7).array, text)
    session.step([[5, 6], [], [7], [8]], moved)


def grow_rows(session: Session) -> None:
    """The same for the portable graph, whose rows have one length."""
    _, cache = session.step([[5, 6, 7], [8, 9, 10]], session.empty_cache(2))
    heads, size = cache.layout[0][2:]
    text = np.random.default_rng(0).random((cache.layout[0][0], 2, heads, 3, size)).astype(np.float32)
    moved = cache.restore(1, Snapshot(owner=cache.owner, array=text)).reorder([0, 1, 1]).crop(2)
    np.testing.assert_array_equal(moved.snapshot(2, 2).array, text[:, :, :, :2])
    session.step([[5], [6], [7]], moved)


def read_in_chunks(session: Session) -> None:
    """Runs without logits, before the last one returns them."""
    whole = serving_graph.DEVICE_CHUNK
    serving_graph.DEVICE_CHUNK = 7
    logits, _ = session.step([[5] * 20], session.empty_cache())
    serving_graph.DEVICE_CHUNK = whole
    assert logits.shape == (1, 1, session.bundle.architecture.vocab_size)


def search_rows(session: Session) -> None:
    """Enough rows that the highest logits are searched on the device. All tie, so all are returned in the end."""
    rows, _ = session.step_top_k([[5]] * 20, session.empty_cache(20), [1, 5] * 10)
    assert [type(row) for (row,) in rows] == [np.ndarray] * 20


def searched(session: Session) -> Any:
    """Where top_k's operators run."""
    opened: Any = session.opened
    placement = placed(opened.top_k.inference, PROVIDERS["cuda"], 0)
    return asdict(placement) if placement else None


def launches(folder: str, cuda_graph: bool) -> list[tuple[int, int]]:
    """The kernels and CUDA graphs that steps launch: four of one token for all rows, one of fewer rows, and again.

    Then the same in a second cache.
    """
    library = ctypes.CDLL("libcudart.so.13")
    counted = []
    session = Session.open(folder, provider="cuda", precision="fp16", cuda_graph=cuda_graph)
    for _ in range(2):
        cache = session.empty_cache(2, capacity=20)
        for rows in ([[5, 6], [7]], *[[[8], [9]]] * 4, [[5], []], [[5], [6]]):
            before = counts(library)
            logits, cache = session.step(rows, cache)
            assert logits.shape == (2, 1, session.bundle.architecture.vocab_size)
            counted.append(tuple(after - start for after, start in zip(counts(library), before, strict=True)))
        del cache
    return counted


def texts(folder: str, precision: str, cuda_graph: bool) -> list[int]:
    """The lengths of texts made in every way: greedy, with lookup, sliding, with beams. Their content means nothing."""
    session = Session.open(folder, provider="cuda", precision=precision, cuda_graph=cuda_graph)
    generator = TextGenerator(session=session, tokenizer=None)
    settings = Settings(max_new_tokens=TOKENS, sampling=GREEDY, stop_token_ids=(), overflow="slide")
    results = [
        generator.complete([5, 6, 7], **settings),
        generator.complete([5, 6, 7] * 4, lookup=LookupConfig(), **settings),
        *beam_search(session, [5, 6, 7], num_beams=3, max_new_tokens=TOKENS // 2, stop_token_ids=()),
    ]
    return [len(each.token_ids) for each in results]


def counts(library: ctypes.CDLL) -> list[int]:
    return [ctypes.c_int.in_dll(library, f"fake_{what}").value for what in ("kernels", "graphs")]


if __name__ == "__main__":
    main(sys.argv[1])
