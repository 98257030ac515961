"""Measures a folder on this machine: prefill and decode rates, loading, memory, and the share of the roofline.

Repeated figures are medians over rounds, except the read bandwidth, where the highest counts. Every round measures
everything once, so that other load on the machine slows all figures alike.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import numpy.typing as npt

from gpt2_runtime.arguments import check_integer
from gpt2_runtime.diagnostics import roofline
from gpt2_runtime.diagnostics.process_memory import peak_rss
from gpt2_runtime.engine.buffers import on_device
from gpt2_runtime.engine.cache import MOST_ROWS, KeyValueCache
from gpt2_runtime.engine.session import Session
from gpt2_runtime.errors import SettingError, shown
from gpt2_runtime.graphs.graph_signature import GraphKind
from gpt2_runtime.providers.providers import ROWS, provider_of
from gpt2_runtime.sampling.config import GREEDY
from gpt2_runtime.sampling.sampler import sample

CONTEXTS = (32, 512, 896)
BATCHES, DEVICE_BATCHES = (1, 8), (1, 8, 64, 256)
PROMPTS = (32, 128, 512)
ROUNDS, MOST_ROUNDS = 5, 1000
STEPS = 16  # decode steps of one cell in one round
PAUSE = 0.1  # seconds, after which the session's threads, which wait for more work by spinning, have gone to sleep

Bandwidth = Callable[[], float]
"""Bytes per second, at the moment."""

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
        roofline: the share of the rate that the bandwidth allows, which is 1 where nothing but reading takes time; None
            where a step read faster than the memory ever did, so that the processor's caches must hold what it reads.
    """

    context: int
    batch: int
    tokens_per_second: float
    roofline: float | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of one folder on one machine.

    Attributes:
        load_seconds: opening the session, imports excluded.
        first_token_seconds: the first prompt of that session, up to its first token.
        cuda_graph: whether a decode step was one captured CUDA graph.
        fast_single: whether a row alone was computed alone.
        peak_rss_mb: the most memory of the host that this process held until a row had been decoded at the longest
            context; None if the system does not report it.
        read_bandwidth_gb_per_second: of the memory that holds the weights, the highest of all rounds: what else the
            machine does makes a reading too low. On the CPU by reading; on CUDA by copying there, what is read and what
            is written.
    """

    folder: str
    precision: str
    graph: str
    cuda_graph: bool
    fast_single: bool
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
    batches: Collection[int] | None = None,
    rounds: int = ROUNDS,
    cuda_graph: bool = False,
    fast_single: bool = False,
    progress: Progress = silent,
) -> Report:
    """Measures a folder.

    Args:
        folder: what `gpt2-export make` wrote.
        precision: as for `Session.open`.
        provider: as for `Session.open`.
        threads: as for `Session.open`.
        graph: as for `Session.open`.
        contexts: tokens already read when decoding is measured; by default 32, 512 and 896 as far as the model reads.
        batches: rows decoded at once; by default 1 and 8, on a device 64 and 256 too.
        rounds: how often everything is measured.
        cuda_graph, fast_single: as for `Session.open`.
        progress: called with each part.

    Raises:
        SettingError: a number is out of range.
        GPT2RuntimeError: the folder or the provider is refused.
    """
    _check_counts("rounds", [rounds], MOST_ROUNDS)
    if batches is not None:
        _check_counts("batch", batches, MOST_ROWS)
    start = perf_counter()
    session = Session.open(
        folder,
        precision=precision,
        provider=provider,
        threads=threads,
        graph=graph,
        cuda_graph=cuda_graph,
        fast_single=fast_single,
    )
    load_seconds = perf_counter() - start
    if batches is None:
        batches = BATCHES if session.provider.tensors.on_host else DEVICE_BATCHES
    limit = session.bundle.architecture.n_positions
    contexts = _fitting(CONTEXTS, limit - STEPS) if contexts is None else tuple(dict.fromkeys(contexts))
    _check_counts("context", contexts)
    if max(contexts) > limit - STEPS:
        problem = f"context is {shown(max(contexts))}, must be at most {limit - STEPS}"
        problem = f"{problem}: the model reads {limit} tokens, {STEPS} of them are decoded here"
        raise SettingError(problem, parameter="context", value=max(contexts))
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

    memory = _bandwidth(session)
    measured: dict[object, list[float]] = {}
    for number in range(rounds + 1):
        for what, seconds in _round(session, memory, ids, prompts, contexts, filled):
            if number:  # the first round warms up: buffers are made, the clock of the processor rises
                measured.setdefault(what, []).append(seconds)
            progress(next(done), total)

    medians = {what: float(np.median(seconds)) for what, seconds in measured.items()}
    bandwidth = 1 / min(measured["bandwidth"])
    return Report(
        folder=session.bundle.folder.name,
        precision=session.precision,
        graph=session.graph,
        cuda_graph=cuda_graph,
        fast_single=fast_single,
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
                roofline=_share(_possible(session, context, batch, bandwidth), medians[context, batch]),
            )
            for context in contexts
            for batch in filled
        ),
        rounds=rounds,
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """The versions of everything involved."""
    import importlib.metadata  # which loads a parser of e-mail; no other command needs it

    found = {"python": platform.python_version()}
    for package in ("gpt2-runtime", *dict.fromkeys(row.package for row in ROWS), "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def lines(report: Report) -> Iterator[str]:
    """The report for people."""
    memory = "unknown here" if report.peak_rss_mb is None else f"{report.peak_rss_mb:.0f} MB"
    device = not provider_of(report.provider).tensors.on_host
    captured = ", a step is one CUDA graph" if report.cuda_graph else ""
    single = ", a row alone computed alone" if report.fast_single else ""
    where = f"{report.provider}, {report.threads} threads{captured}{single}"
    yield f"{report.folder}: {report.precision}, {report.graph} graph, {where}"
    yield f"load            {report.load_seconds:.2f} s"
    yield f"first token     {report.first_token_seconds:.2f} s"
    yield f"peak memory     {memory}{' of the host' if device else ''}"
    yield f"{'copy' if device else 'read'} bandwidth  {report.read_bandwidth_gb_per_second:.1f} GB/s"
    yield f"\n{'prompt':>8} {'ms':>10} {'tokens/s':>10}"
    for prefill in report.prefill:
        yield f"{prefill.tokens:>8} {prefill.milliseconds:>10.1f} {prefill.tokens_per_second:>10.1f}"
    roof = f"of the {'copy' if device else 'read'} roofline"
    yield f"\n{'context':>8} {'batch':>10} {'tokens/s':>10} {roof:>22}"
    for decode in report.decode:
        share = "-" if decode.roofline is None else f"{decode.roofline:.0%}"
        yield f"{decode.context:>8} {decode.batch:>10} {decode.tokens_per_second:>10.1f} {share:>22}"
    if any(decode.roofline is None for decode in report.decode):
        yield "\n- read faster than memory was: the processor's caches hold it"
    yield f"\nmedians of {report.rounds} rounds"


def _bandwidth(session: Session) -> Bandwidth:
    """Of the memory that the session's weights are in."""
    tensors = session.provider.tensors
    if tensors.on_host:
        array = roofline.bandwidth_array()
        return lambda: roofline.read_bandwidth(array, session.threads)
    memory = on_device((2 * roofline.ARRAY_BYTES,), np.uint8, tensors.device)
    return lambda: roofline.copy_bandwidth(memory)


def _round(
    session: Session,
    memory: Bandwidth,
    ids: npt.NDArray[np.int64],
    prompts: Collection[int],
    contexts: Collection[int],
    filled: dict[int, KeyValueCache],
) -> Iterator[tuple[object, float]]:
    """Everything once: what, and its seconds."""
    sleep(PAUSE)
    yield "bandwidth", 1 / memory()  # seconds of a byte
    for tokens in prompts:
        yield tokens, _prefill(session, ids[:1, :tokens])
    for context in contexts:
        for batch, cache in filled.items():
            # A copy, for a step writes into the cache that it is given, and the next round needs this one again.
            yield (context, batch), _decode(session, cache.crop(context).copy())


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
    rng = np.random.default_rng(0)  # unused by greedy
    unread, counts = [[0]] * cache.batch_size, [GREEDY.needed] * cache.batch_size
    start = perf_counter()
    for _ in range(STEPS):
        rows, cache = session.step_top_k(unread, cache, counts)
        unread = [[sample(row, GREEDY, rng)] for (row,) in rows]
    return (perf_counter() - start) / STEPS


def _share(possible: float, taken: float) -> float | None:
    """What part of the seconds taken reading alone would have needed; None where it would have needed more.

    >>> _share(1.0, 4.0), _share(4.0, 1.0)
    (0.25, None)
    """
    return possible / taken if possible <= taken else None


def _possible(session: Session, context: int, batch: int, bandwidth: float) -> float:
    """Seconds of a step that does nothing but read."""
    widened = session.provider.widens_float16
    weights = roofline.weight_bytes(session.bundle, session.precision, widened=widened)
    itemsize = roofline.FLOAT32_BYTES if widened else session.empty_cache(capacity=1).layout[1].itemsize
    cached = roofline.cache_bytes(session.bundle, context + STEPS // 2, batch, itemsize=itemsize)
    return (weights + cached) / bandwidth


def _fitting(sizes: Collection[int], limit: int) -> tuple[int, ...]:
    """Those that a model of `limit` positions reads; half of it where it reads none of them."""
    return tuple(size for size in sizes if size <= limit) or (max(1, limit // 2),)


def _check_counts(name: str, values: Collection[int], most: int | None = None) -> None:
    if not values:
        raise SettingError(f"{name} has no values, must have at least one", parameter=name, value=values)
    for value in values:
        check_integer(name, value, 1, most)
