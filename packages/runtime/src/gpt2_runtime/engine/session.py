"""An open graph: token ids and a cache in, logits and a cache out.

B rows, T new tokens, K logits after each row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from gpt2_runtime.arguments import check_flag, check_integer, invalid, is_integer
from gpt2_runtime.engine.buffer_pool import Pool
from gpt2_runtime.engine.cache import MOST_ROWS, KeyValueCache
from gpt2_runtime.engine.logits import Row
from gpt2_runtime.engine.packed_session import PackedSession
from gpt2_runtime.engine.portable_graph import PortableGraph
from gpt2_runtime.engine.serving_graph import ServingGraph
from gpt2_runtime.engine.top_k import GRAPH, TopK
from gpt2_runtime.errors import ContextFullError, SettingError, TokenIdError, shown
from gpt2_runtime.folder.bundle import Bundle
from gpt2_runtime.folder.sharing import Shared
from gpt2_runtime.graphs.graph_choice import capturing, choose_graph, runs_evenly
from gpt2_runtime.graphs.graph_file import GraphFile, Load
from gpt2_runtime.graphs.graph_signature import GraphKind, Signature
from gpt2_runtime.graphs.inference import open_inference, signature_of
from gpt2_runtime.providers.placement import Placement, placed
from gpt2_runtime.providers.provider import Provider
from gpt2_runtime.providers.providers import choose_provider

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


Ids = Sequence[Sequence[int]] | Sequence[npt.NDArray[np.integer]] | npt.NDArray[np.integer]
Cache = TypeVar("Cache")


class Graph(Protocol[Cache]):
    """A kind of graph, called after the checks."""

    @property
    def owner(self) -> object:
        """What its caches belong to."""

    @property
    def inference(self) -> InferenceSession: ...

    @property
    def packed(self) -> bool: ...

    @property
    def even(self) -> bool: ...

    def empty_cache(self, batch_size: int, capacity: int) -> Cache: ...

    def step(
        self, rows: Sequence[npt.NDArray[np.int64]], cache: Cache, keep: int
    ) -> tuple[npt.NDArray[np.float32], Cache]: ...

    def step_top_k(
        self, rows: Sequence[npt.NDArray[np.int64]], cache: Cache, keep: Sequence[int], counts: Sequence[int | None]
    ) -> tuple[list[list[Row]], Cache]: ...


@dataclass(frozen=True, kw_only=True)
class Session(Shared):
    """An open graph of a folder. It keeps no state of a text: threads may share it, each with its own caches.

    Attributes:
        bundle: the folder.
        precision: the precision of its weights: "fp32", "fp16", "int8" or "int4".
        graph: the kind of graph: "serving" or "portable".
        placement: where its operators run.
        reopen: opens it with the same settings in another process that it is pickled to.

    >>> session = Session.open(folder)
    >>> logits, cache = session.step([[5, 6, 7]], session.empty_cache())
    >>> logits.shape == (1, 1, session.bundle.architecture.vocab_size)
    True
    >>> logits, cache = session.step([[8, 9]], cache, logits_to_keep=2)
    >>> logits.shape[:2], cache.lengths
    ((1, 2), (5,))
    """

    bundle: Bundle
    precision: str
    graph: GraphKind
    provider: Provider
    threads: int
    signature: Signature
    placement: Placement
    file: GraphFile
    opened: Graph[Any]
    reopen: Callable[[Bundle], Session]

    @classmethod
    def open(
        cls,
        folder: str | Path | Bundle,
        *,
        precision: str | None = None,
        provider: str = "cpu",
        threads: int | None = None,
        graph: GraphKind | None = None,
        prepack: bool = True,
        load: Load = "copy",
        cuda_graph: bool = False,
        fast_single: bool = False,
    ) -> Session:
        """Opens a graph of the folder.

        Args:
            folder: the exported folder, or its open Bundle.
            precision: "fp32", "fp16", "int8" or "int4"; by default the most exact one in the folder.
            provider: its name in PROVIDERS; there is no fallback to another one.
            threads: how many threads one operator may use; by default what affinity and quota allow this process.
            graph: "serving" (preallocated cache, rows of any lengths) or "portable" (standard operators, rows of equal
                length). By default the serving graph if the folder has it and the provider runs it (CUDA only in
                fp16), else the portable one.
            prepack: whether to pack the serving graph's weights for this processor before this returns, which takes
                most of the loading time. False delays that until after the first step and a few more tokens, so that
                the first token, and a short text, come sooner. Only for fp32: other precisions and the portable graph
                always pack at once.
            load: "copy" copies the weights into memory; changes to the files then have no effect (delayed packing is
                refused after a change). "map" maps them from their file, which processes then share and which must not
                change: each step checks it, and raises once it has. "auto", for a short run, maps them, or copies
                those that are links to another folder. On a GPU all weights are read once.
            cuda_graph: whether to capture a step of all rows by one token once as a CUDA graph and then replay it,
                instead of launching its operators on the GPU one by one. For the serving graph on CUDA. Threads then
                take turns, each captures its own graph, and nothing else in the process may use the GPU during a
                capture. Up to MOST_FREE allocations stay on the GPU for later caches.
            fast_single: for int8 and int4 on the CPU, which compute a single row as two, so that its text is the same
                as in any batch. True computes it alone, which is faster and enables prompt lookup, but may change the
                text.

        Raises:
            BundleError: the folder is damaged (GraphError: its graph does not match its config), or does not have the
                requested precision or graph.
            ProviderError: the provider is not available.
            SettingError: `threads`, `graph` or `load` is out of range; `cuda_graph` or `fast_single` has no effect.
        """
        check_flag("prepack", prepack)
        check_flag("cuda_graph", cuda_graph)
        bundle = folder if isinstance(folder, Bundle) else Bundle.open(folder)
        chosen = choose_provider(provider)
        precision = bundle.precision(precision)
        kind = choose_graph(bundle, precision, chosen, graph)
        threads = chosen.threads(threads)
        settings: dict[str, Any] = {"precision": precision, "provider": provider, "threads": threads, "graph": kind}
        settings |= {"prepack": prepack, "load": load, "cuda_graph": cuda_graph, "fast_single": fast_single}
        sizes = bundle.architecture
        even = runs_evenly(precision, chosen, fast_single)
        signs = partial(Signature.of, kind, sizes, bundle.cache_types[precision])
        file = GraphFile.open(bundle, precision, kind, signs, load=load, tensors=chosen.tensors)
        opened: Graph[Any]
        top_k = None
        if not chosen.tensors.on_host:
            top_k = TopK(partial(open_inference, GRAPH, chosen, threads, True), chosen.tensors.device)
        if cuda_graph:
            chosen = capturing(chosen, kind)
        if kind == "serving":
            files = [each.path for each in (file.file, *file.weights.values())]
            # Unpacked 8-bit and 4-bit blocks use another kernel: slower, and with different results.
            engine = PackedSession(
                partial(open_inference, file, chosen, threads),
                files,
                packed=prepack or precision != "fp32",
                captures=cuda_graph,
            )
            cache_type = np.dtype(bundle.cache_types[precision])
            opened = ServingGraph(
                engine=engine,
                sizes=sizes,
                cache_type=cache_type,
                tensors=chosen.tensors,
                pool=Pool() if cuda_graph else None,
                top_k=top_k,
                even=even,
            )
        else:
            inference = open_inference(file, chosen, threads, True)
            device = chosen.tensors.device
            opened = PortableGraph(inference=inference, sizes=sizes, device=device, top_k=top_k, even=even)
        signature = signature_of(opened.inference)
        return cls(
            bundle=bundle,
            precision=precision,
            graph=kind,
            provider=chosen,
            threads=threads,
            signature=signature,
            placement=placed(opened.inference, chosen, sizes.n_layer),
            file=file,
            opened=opened,
            reopen=partial(cls.open, **settings),
        )

    def __reduce__(self) -> tuple[object, ...]:
        return self.reopen, (self.bundle,)

    @property
    def even(self) -> bool:
        """Whether each product has an even number of rows: int8 and int4 on the CPU, unless `fast_single` is set."""
        return self.opened.even

    @property
    def fast_single(self) -> bool:
        """Whether it was opened with `fast_single`."""
        return not self.even and self.precision in self.provider.evenly

    @property
    def packed(self) -> bool:
        """Whether the weights are packed. Steps before and after packing differ by rounding."""
        return self.opened.packed

    def empty_cache(self, batch_size: int = 1, *, capacity: int | None = None) -> KeyValueCache:
        """An empty cache of `batch_size` rows, for the first step.

        Args:
            batch_size: 1 to MOST_ROWS.
            capacity: the most tokens per row; by default the model's n_positions.
        """
        most = self.bundle.architecture.n_positions
        capacity = most if capacity is None else capacity
        check_integer("batch_size", batch_size, 1, MOST_ROWS)
        check_integer("capacity", capacity, 1, most)
        cache: KeyValueCache = self.opened.empty_cache(batch_size, capacity)
        return cache

    def step(
        self, ids: Ids, cache: KeyValueCache, logits_to_keep: int = 1
    ) -> tuple[npt.NDArray[np.float32], KeyValueCache]:
        """Reads more tokens of each row.

        Args:
            ids: the new tokens of each row; [B, T], or rows of any lengths. A row without new tokens stays unchanged;
                at least one row must have some. The portable graph requires rows of equal length.
            cache: the cache of the tokens before them, from `empty_cache` or the previous step.
            logits_to_keep: K, at most the longest row's new tokens.

        Returns:
            logits [B, K, V] after each row's last K tokens, `logits[b, -1]` after the last, NaN where a row reads
            fewer; owned by the caller. And the cache with the new tokens; the cache passed in is used up.

        Raises:
            TokenIdError: an id outside the vocabulary.
            ContextFullError: a row would have more tokens than the cache has room for.
            SettingError: `ids` is not rows of integers, `logits_to_keep` is out of range, or the cache has other rows,
                belongs to another session, or is used up.

        >>> logits, cache = session.step([[5, 6, 7], [], [8]], session.empty_cache(3), logits_to_keep=2)
        >>> cache.lengths, np.isnan(logits[:, :, 0]).tolist()
        ((3, 0, 1), [[False, False], [True, True], [True, False]])
        """
        rows = self._check_step(ids, cache)
        check_integer("logits_to_keep", logits_to_keep, 1, max(map(len, rows)))
        stepped: tuple[npt.NDArray[np.float32], KeyValueCache] = self.opened.step(rows, cache, logits_to_keep)
        return stepped

    def step_top_k(
        self,
        ids: Ids,
        cache: KeyValueCache,
        counts: Sequence[int | None],
        logits_to_keep: int | Sequence[int] = 1,
    ) -> tuple[list[list[Row]], KeyValueCache]:
        """Reads more tokens of each row, for loops that need only the highest logits.

        A GPU selects these itself, without copying the others to the host, which for many rows would take longer than
        the step. `SamplingConfig.needed` gives the number that a config needs.

        Args:
            ids, cache: as for `step`.
            logits_to_keep: K as for `step`; or [B], one per row, at most its new tokens; 0 for a row that reads only
                part of its prompt computes none.
            counts: [B], how many of its highest logits each row needs, including all ties with the last of them; None
                for all V.

        Returns:
            For each row, after each of its last K tokens at most: the needed TopLogits, or all logits [V] if they are
            requested or already on the host. And the cache, as `step` returns it.

        Raises:
            SettingError: `counts` or `logits_to_keep` does not have one per row, or one is out of range.
            GPT2RuntimeError: as for `step`.

        >>> rows, cache = session.step_top_k([[5, 6, 7], [8]], session.empty_cache(2), [1, None])
        >>> [len(row) for row in rows], rows[1][0].shape
        ([1, 1], (300,))
        >>> rows, cache = session.step_top_k([[7, 9, 9], [6, 5]], cache, [1, 1], [3, 0])
        >>> [len(row) for row in rows]
        [3, 0]
        """
        rows = self._check_step(ids, cache)
        keep = _keeps(logits_to_keep, rows)
        if not isinstance(counts, list | tuple):
            raise invalid("counts", counts, "must be a list with one per row: [1, None]")
        if len(counts) != len(rows):
            problem = f"counts are {len(counts)}, the step has {len(rows)} rows; pass one for each"
            raise SettingError(problem, parameter="counts", value=counts)
        for count in counts:
            if count is not None and (not is_integer(count) or count < 1):
                problem = f"count is {shown(count)}, must be an integer of at least 1; None needs all logits"
                raise SettingError(problem, parameter="counts", value=counts)
        stepped: tuple[list[list[Row]], KeyValueCache] = self.opened.step_top_k(rows, cache, keep, counts)
        return stepped

    def _check_step(self, ids: Ids, cache: KeyValueCache) -> list[npt.NDArray[np.int64]]:
        """The rows of a step, checked."""
        self.file.check_unchanged()
        rows = self.check_ids(ids)
        self._check_cache(cache, rows)
        return rows

    def check_ids(self, ids: Ids) -> list[npt.NDArray[np.int64]]:
        """Each row's ids as int64 [T]; SettingError for anything else, TokenIdError outside the vocabulary."""
        try:
            listed = list(ids)
        except TypeError as error:
            problem = f"ids are {type(ids).__name__}, must be rows of integers: [[5, 6], [7]]"
            raise SettingError(problem, parameter="ids", value=ids) from error
        rows = [self.check_row(row) for row in listed]
        if not any(row.size for row in rows):
            problem = f"ids are {len(rows)} rows without tokens, must have at least one"
            raise SettingError(problem, parameter="ids", value=ids)
        return rows

    def check_row(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Token ids, possibly none, as int64 [T]; raises the errors of `check_ids`."""
        vocab_size = self.bundle.architecture.vocab_size
        if type(ids) is list and len(ids) == 1 and type(ids[0]) is int and 0 <= ids[0] < vocab_size:
            return np.array(ids)  # fast path for decode steps, which may have hundreds of rows
        try:
            row = np.asarray(ids)
        except (TypeError, ValueError, OverflowError) as error:
            problem = f"row of ids is {type(ids).__name__}, must be integers of shape [T]"
            raise SettingError(problem, parameter="ids", value=ids) from error
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            problem = f"row of ids is {row.dtype} of shape {row.shape}, must be integers of shape [T]"
            raise SettingError(problem, parameter="ids", value=ids)
        if not row.size:
            return np.empty(0, dtype=np.int64)  # numpy makes an empty list float64
        outside = row[(row < 0) | (row >= vocab_size)]
        if outside.size:
            problem = f"token id is {outside[0]}, must be from 0 to {vocab_size - 1}"
            raise TokenIdError(problem, parameter="ids", value=int(outside[0]))
        return row.astype(np.int64, copy=False)

    def _check_cache(self, cache: KeyValueCache, rows: Sequence[npt.NDArray[np.int64]]) -> None:
        if not isinstance(cache, KeyValueCache):
            raise invalid("cache", cache, "must come from empty_cache or the previous step")
        if cache.owner is not self.opened.owner:
            problem = "cache belongs to another session; start from empty_cache of this one"
            raise SettingError(problem, parameter="cache", value=cache)
        if cache.batch_size != len(rows):
            problem = f"cache has {cache.batch_size} rows, the step {len(rows)}; leave idle rows empty: []"
            raise SettingError(problem, parameter="cache", value=cache)
        for row, (length, new) in enumerate(zip(cache.lengths, rows, strict=True)):
            if length + len(new) > cache.capacity:
                limit = f"the cache has {cache.capacity}, the model {self.bundle.architecture.n_positions}"
                problem = f"row {row} needs {length + len(new)} positions, {limit}"
                raise ContextFullError(f"{problem}; roll the cache back or start a new one")


def _keeps(logits_to_keep: int | Sequence[int], rows: Sequence[npt.NDArray[np.int64]]) -> list[int]:
    """The number of last tokens that get logits, for each row, [B]."""
    if not isinstance(logits_to_keep, list | tuple):
        check_integer("logits_to_keep", logits_to_keep, 1, max(map(len, rows)))
        return [min(cast(int, logits_to_keep), len(row)) for row in rows]
    if len(logits_to_keep) != len(rows):
        problem = f"logits_to_keep are {len(logits_to_keep)}, the step has {len(rows)} rows; pass one for each"
        raise SettingError(problem, parameter="logits_to_keep", value=logits_to_keep)
    for row, (keep, new) in enumerate(zip(logits_to_keep, rows, strict=True)):
        check_integer("logits_to_keep", keep, 0, len(new), why=f", the tokens that row {row} reads")
    return list(logits_to_keep)
