"""Opens a folder and measures the cost: seconds and memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from gpt2_runtime.diagnostics.process_memory import Memory, peak_rss
from gpt2_runtime.engine.session import Session
from gpt2_runtime.folder.bundle import Bundle
from gpt2_runtime.graphs.graph_signature import GraphKind
from gpt2_runtime.providers.providers import load_onnxruntime
from gpt2_runtime.text.generator import TextGenerator, open_tokenizer


@dataclass(frozen=True, kw_only=True)
class Loading:
    """The cost of opening a folder. Memory is in bytes, and None if the system does not report it.

    Attributes:
        import_seconds: importing onnxruntime; almost nothing if it was imported before.
        graph_seconds: checking the folder's files, opening the graph, packing its weights for this processor.
        tokenizer_seconds: reading and checking the vocabulary.
        own_bytes: growth of the process's own memory.
        mapped_bytes: growth of its mapped file pages, which the system may reclaim.
        peak_rss_bytes: the process's peak memory.
    """

    import_seconds: float
    graph_seconds: float
    tokenizer_seconds: float
    own_bytes: int | None
    mapped_bytes: int | None
    peak_rss_bytes: int | None


def load(
    folder: str | Path,
    *,
    precision: str | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    graph: GraphKind | None = None,
    check_hashes: bool = False,
) -> tuple[TextGenerator, Loading]:
    """Runs `TextGenerator.open`, with the same arguments and errors, and measures it.

    >>> generator, loading = load(folder)
    >>> loading.graph_seconds > 0
    True
    """
    start = perf_counter()
    load_onnxruntime()
    imported = perf_counter()
    before = Memory.now()
    bundle = Bundle.open(folder, check_hashes=check_hashes)
    session = Session.open(bundle, precision=precision, provider=provider, threads=threads, graph=graph)
    opened = perf_counter()
    tokenizer = open_tokenizer(bundle)
    done = perf_counter()
    after = Memory.now()
    return TextGenerator(session=session, tokenizer=tokenizer), Loading(
        import_seconds=imported - start,
        graph_seconds=opened - imported,
        tokenizer_seconds=done - opened,
        own_bytes=after.own - before.own if before and after else None,
        mapped_bytes=after.mapped - before.mapped if before and after else None,
        peak_rss_bytes=peak_rss(),
    )
