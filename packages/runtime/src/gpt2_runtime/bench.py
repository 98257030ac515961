"""What this machine makes of a folder: prefill and decode rates, loading, memory, and how far from the possible.

Every figure that is repeated is a median over rounds, and every round measures everything once, the machine's read
bandwidth included: what else the machine does meanwhile slows all of them alike.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import numpy.typing as npt

from gpt2_runtime import roofline
from gpt2_runtime.cache import MOST_ROWS, KeyValueCache
from gpt2_runtime.errors import SettingError, shown
from gpt2_runtime.memory import peak_rss
from gpt2_runtime.session import Session
from gpt2_runtime.signature import GraphKind

CONTEXTS = (32, 512, 896)
BATCHES = (1, 8)
PROMPTS = (32, 128, 512)
ROUNDS, MOST_ROUNDS = 5, 1000
STEPS = 16  # decode steps of one cell in one round
PAUSE = 0.1  # seconds, after which the session's threads, which wait for more work by spinning, have gone to sleep

Progress = Callable[[int, int], None]
"""(done, total): called after each of the parts."""


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """A prompt of `tokens`, up to its logits."""

    tokens: int
    milliseconds: float
    tokens_per_second: float


@dataclass(frozen=True, kw_only=True)
class Decode:
    """`batch` rows that have read `context` tokens each.

    Attributes:
        tokens_per_second: of all rows together.
        roofline: the share of the rate that the read bandwidth allows, which is 1 where nothing but reading takes time.
    """

    context: int
    batch: int
    tokens_per_second: float
    roofline: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of one folder on one machine.

    Attributes:
        load_seconds: opening the session, imports excluded.
        first_token_seconds: the first prompt of that session, up to its first token.
        peak_rss_mb: the most memory this process held until a row had been decoded at the longest context; None where
            the system does not tell.
    """

    folder: str
    precision: str
    graph: str
    provider: str
    threads: int
    load_seconds: float
    first_token_seconds: float
    peak_rss_mb: float | None
    read_bandwidth_gb_per_second: float
    prefill: tuple[Prefill, ...]
    decode: tuple[Decode, ...]
    rounds: int
    versions: dict[str, str]


def silent(done: int, total: int) -> None:
    """No progress."""


def bench(
    folder: str | Path,
    *,
    precision: str | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    graph: GraphKind | None = None,
    contexts: Collection[int] | None = None,
    batches: Collection[int] = BATCHES,
    rounds: int = ROUNDS,
    progress: Progress = silent,
) -> Report:
    """Measures a folder.

    Args:
        folder: what `gpt2-export make` wrote.
        precision: as for `Session.open`.
        provider: "cpu" or "cuda".
        threads: as for `Session.open`.
        graph: as for `Session.open`.
        contexts: tokens already read when decoding is measured; by default 32, 512 and 896 as far as the model reads.
        batches: rows decoded at once.
        rounds: how often everything is measured.
        progress: told of each part.

    Raises:
        SettingError: a number is out of range.
        Gpt2RuntimeError: the folder or the provider is refused.
    """
    _refuse_outside("rounds", [rounds], MOST_ROUNDS)
    _refuse_outside("batch", batches, MOST_ROWS)
    start = perf_counter()
    session = Session.open(folder, precision=precision, provider=provider, threads=threads, graph=graph)
    load_seconds = perf_counter() - start
    limit = session.bundle.architecture.n_positions
    contexts = _fitting(CONTEXTS, limit - STEPS) if contexts is None else tuple(dict.fromkeys(contexts))
    _refuse_outside("context", contexts)
    if max(contexts) > limit - STEPS:
        told = f"context is {shown(max(contexts))}, must be at most {limit - STEPS}"
        raise SettingError(f"{told}: the model reads {limit} tokens, {STEPS} of them are decoded here")
    prompts = _fitting(PROMPTS, limit)

    ids = np.random.default_rng(0).integers(session.bundle.architecture.vocab_size, size=(max(batches), limit))
    first_token_seconds = _prefill(session, ids[:1, : min(prompts)])
    total = len(set(batches)) + (rounds + 1) * (1 + len(prompts) + len(contexts) * len(set(batches)))
    done = iter(range(1, total + 1))

    _decode(session, _filled(session, ids[:1, : max(contexts)]))
    peak = peak_rss()  # before anything that is here for the sake of measuring
    filled: dict[int, KeyValueCache] = {}
    for batch in sorted(set(batches)):
        filled[batch] = _filled(session, ids[:batch, : max(contexts)])
        progress(next(done), total)

    array = roofline.bandwidth_array()
    measured: dict[object, list[float]] = {}
    for number in range(rounds + 1):
        for what, seconds in _round(session, array, ids, prompts, contexts, filled):
            if number:  # the first round warms up: buffers are made, the clock of the processor rises
                measured.setdefault(what, []).append(seconds)
            progress(next(done), total)

    medians = {what: float(np.median(seconds)) for what, seconds in measured.items()}
    bandwidth = array.nbytes / medians["bandwidth"]
    return Report(
        folder=session.bundle.folder.name,
        precision=session.precision,
        graph=session.graph,
        provider=session.provider.execution_provider,
        threads=session.threads,
        load_seconds=load_seconds,
        first_token_seconds=first_token_seconds,
        peak_rss_mb=None if peak is None else peak / 1e6,
        read_bandwidth_gb_per_second=bandwidth / 1e9,
        prefill=tuple(
            Prefill(tokens=tokens, milliseconds=1000 * medians[tokens], tokens_per_second=tokens / medians[tokens])
            for tokens in prompts
        ),
        decode=tuple(
            Decode(
                context=context,
                batch=batch,
                tokens_per_second=batch / medians[context, batch],
                roofline=_possible(session, context, batch, bandwidth) / medians[context, batch],
            )
            for context in contexts
            for batch in filled
        ),
        rounds=rounds,
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Of what took part."""
    import importlib.metadata  # which loads a parser of e-mail; no other command needs it

    found = {"python": platform.python_version()}
    for package in ("gpt2-runtime", "onnxruntime", "onnxruntime-gpu", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def lines(report: Report) -> Iterator[str]:
    """The report for people."""
    memory = "unknown here" if report.peak_rss_mb is None else f"{report.peak_rss_mb:.0f} MB"
    yield f"{report.folder}: {report.precision}, {report.graph} graph, {report.provider}, {report.threads} threads"
    yield f"load            {report.load_seconds:.2f} s"
    yield f"first token     {report.first_token_seconds:.2f} s"
    yield f"peak memory     {memory}"
    yield f"read bandwidth  {report.read_bandwidth_gb_per_second:.1f} GB/s"
    yield f"\n{'prompt':>8} {'ms':>10} {'tokens/s':>10}"
    for prefill in report.prefill:
        yield f"{prefill.tokens:>8} {prefill.milliseconds:>10.1f} {prefill.tokens_per_second:>10.1f}"
    yield f"\n{'context':>8} {'batch':>10} {'tokens/s':>10} {'of the read roofline':>22}"
    for decode in report.decode:
        yield f"{decode.context:>8} {decode.batch:>10} {decode.tokens_per_second:>10.1f} {decode.roofline:>22.0%}"
    yield f"\nmedians of {report.rounds} rounds"


def _round(
    session: Session,
    array: npt.NDArray[np.uint8],
    ids: npt.NDArray[np.int64],
    prompts: Collection[int],
    contexts: Collection[int],
    filled: dict[int, KeyValueCache],
) -> Iterator[tuple[object, float]]:
    """Everything once: what, and its seconds."""
    sleep(PAUSE)
    yield "bandwidth", array.nbytes / roofline.read_bandwidth(array, session.threads)
    for tokens in prompts:
        yield tokens, _prefill(session, ids[:1, :tokens])
    for context in contexts:
        for batch, cache in filled.items():
            # A copy, for a step writes into the cache that it is given, and the next round needs this one again.
            yield (context, batch), _decode(session, cache.rolled_back(context).copy())


def _prefill(session: Session, ids: npt.NDArray[np.int64]) -> float:
    cache = session.empty_cache(capacity=ids.shape[1])
    start = perf_counter()
    logits, _ = session.step(ids, cache)
    logits[0, -1].argmax()
    return perf_counter() - start


def _filled(session: Session, ids: npt.NDArray[np.int64]) -> KeyValueCache:
    cache = session.empty_cache(len(ids), capacity=ids.shape[1] + STEPS)
    return session.step(ids, cache)[1]


def _decode(session: Session, cache: KeyValueCache) -> float:
    """Seconds of one step of all rows."""
    unread = np.zeros((cache.batch_size, 1), np.int64)
    start = perf_counter()
    for _ in range(STEPS):
        logits, cache = session.step(unread, cache)
        unread = logits[:, -1].argmax(axis=-1)[:, None]
    return (perf_counter() - start) / STEPS


def _possible(session: Session, context: int, batch: int, bandwidth: float) -> float:
    """Seconds of a step that does nothing but read."""
    weights = roofline.weight_bytes(session.bundle, session.precision)
    return (weights + roofline.cache_bytes(session.bundle, context + STEPS // 2, batch)) / bandwidth


def _fitting(sizes: Collection[int], limit: int) -> tuple[int, ...]:
    """Those that a model of `limit` positions reads; half of it where it reads none of them."""
    return tuple(size for size in sizes if size <= limit) or (max(1, limit // 2),)


def _refuse_outside(name: str, values: Collection[int], most: int | None = None) -> None:
    if not values:
        raise SettingError(f"{name} has no values, must have one at least")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
            limit = "of at least 1" if most is None else f"from 1 to {most}"
            raise SettingError(f"{name} is {shown(value)}, must be an integer {limit}")
