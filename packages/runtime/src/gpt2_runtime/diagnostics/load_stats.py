"""Opens a folder and tells what that cost: seconds and memory."""

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
    """What opening a folder cost. Memory is in bytes, and None where the system does not tell.

    Attributes:
        import_seconds: onnxruntime itself; next to nothing where it was imported before.
        graph_seconds: the folder's files checked, the graph opened, its weights packed for this processor.
        tokenizer_seconds: the vocabulary read and checked.
        own_bytes: what the process holds more than before.
        mapped_bytes: pages of files that it has mapped more than before, which the system may take back.
        peak_rss_bytes: the most it ever held.
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
    """`TextGenerator.open`, with the same arguments and errors, by the clock.

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
