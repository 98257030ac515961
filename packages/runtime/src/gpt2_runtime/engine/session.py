"""One graph, opened: token ids and a cache in, logits and a cache out.

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
    """A kind of graph, behind the checks."""

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
    """A graph of a folder, ready to step. It holds no text: threads may share it, each with caches of its own.

    Attributes:
        bundle: the folder.
        precision: of its weights, "fp32", "fp16", "int8" or "int4".
        graph: which of its graphs, "serving" or "portable".
        placement: where its operators run.
        reopen: how another process that it is sent to opens it there, with the same settings.

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
            folder: the exported folder, or its Bundle where it is open already.
            precision: "fp32", "fp16", "int8" or "int4"; by default the most exact one that the folder has.
            provider: its name in PROVIDERS; another one is never taken in its place.
            threads: how many threads one operator may use; by default what affinity and quota let this process use.
            graph: "serving" (a preallocated cache, rows of any lengths) or "portable" (standard operators, rows of
                one length). By default the serving one where the folder has it and the provider runs it (CUDA does in
                fp16), else the portable one.
            prepack: whether the serving graph's weights are packed for this processor before this returns, which is
                most of the time that loading takes. False leaves it until the first step and a few tokens more were
                read: the first token comes sooner, and a short text as a whole. It is for fp32: other precisions and
                the portable graph pack at once.
            load: "copy" holds the weights in memory, and what becomes of the files after that changes nothing (where
                packing is left until later, it is refused then). "map" leaves them in their file, which processes then
                share, and which must stay as it is: each step checks it, and refuses to go on once it has changed.
                "auto", for a short run, maps them, or copies those that are links to another place. On a GPU all are
                read once.
            cuda_graph: whether a step of all rows by one token is captured once as a CUDA graph and then replayed,
                instead of launching its operators on the GPU one by one. For the serving graph on CUDA; threads take
                turns then, each captures anew, and nothing else in the process may use the GPU while one does. Up to
                MOST_FREE allocations stay on the GPU for the caches that come.
            fast_single: for int8 and int4 on the CPU, which compute a row that is alone as two, so that its text is the
                one that it has in any batch. True computes it alone, which is faster, and lets lookup draft: the text
                may be another then.

        Raises:
            BundleError: the folder is damaged (GraphError: its graph is not the one its config describes), or it lacks
                the precision or the graph asked for.
            ProviderError: the provider is not there.
            SettingError: `threads`, `graph` or `load` is out of range; `cuda_graph` or `fast_single` changes nothing.
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
            # Unpacked, blocks of 8 or 4 bits are multiplied in another way: slower, and with other results.
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
        """Whether each product has an even number of rows: int8 and int4 on the CPU, but where it is `fast_single`."""
        return self.opened.even

    @property
    def fast_single(self) -> bool:
        """Whether it was opened so."""
        return not self.even and self.precision in self.provider.evenly

    @property
    def packed(self) -> bool:
        """Whether the weights are packed. Steps before that give other numbers, within rounding, than steps after."""
        return self.opened.packed

    def empty_cache(self, batch_size: int = 1, *, capacity: int | None = None) -> KeyValueCache:
        """The cache before the first step of `batch_size` rows.

        Args:
            batch_size: 1 to MOST_ROWS.
            capacity: the tokens that each row has room for; by default the model's n_positions.
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
            ids: for each row its new tokens; [B, T], or rows of any lengths. A row without new tokens stays as it is;
                at least one must have some. The portable graph reads rows of one length only.
            cache: of the tokens before them, from `empty_cache` or the step before.
            logits_to_keep: K, at most the longest row's new tokens.

        Returns:
            logits [B, K, V] after each row's last K tokens, `logits[b, -1]` after the last. A row that reads fewer has
            NaN in the places it lacks. They are the caller's to keep. And the cache with the new tokens; the one that
            went in is used up.

        Raises:
            TokenIdError: an id outside the vocabulary.
            ContextFullError: a row would have more tokens than the cache has room for.
            SettingError: `ids` is not rows of integers, `logits_to_keep` is out of range, or the cache is of other
                rows, of another session, or used up.

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
        """Reads more tokens of each row, for loops that need only the highest of the logits.

        On a GPU these are found there, and the others are not brought to the host, which for many rows would take
        longer than the step. What is enough for settings is `SamplingConfig.needed`.

        Args:
            ids, cache: as for `step`.
            logits_to_keep: K as for `step`; or [B], one for each row, at most its new tokens: 0 of a row that reads
                only a part of its prompt computes none.
            counts: [B], of each row how many of its highest logits are needed, with all that tie with the last of
                them; None needs all V.

        Returns:
            For each row, after each of its last tokens, K of them at most: a TopLogits of what is needed, or all
            logits [V], where they are asked for or as near at hand. And the cache, as `step` returns it.

        Raises:
            SettingError: `counts` or `logits_to_keep` is not one for each row, or one is out of range.
            GPT2RuntimeError: as `step` does.

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
            raise invalid("counts", counts, "must be a list of one for each row: [1, None]")
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
        """The rows of a step that can be made."""
        self.file.check_unchanged()
        rows = self.check_ids(ids)
        self._check_cache(cache, rows)
        return rows

    def check_ids(self, ids: Ids) -> list[npt.NDArray[np.int64]]:
        """Each row's ids as int64 [T]; SettingError for anything else, TokenIdError outside the vocabulary."""
        try:
            given = list(ids)
        except TypeError as error:
            problem = f"ids are {type(ids).__name__}, must be rows of integers: [[5, 6], [7]]"
            raise SettingError(problem, parameter="ids", value=ids) from error
        rows = [self.check_row(row) for row in given]
        if not any(row.size for row in rows):
            problem = f"ids are {len(rows)} rows without tokens, must have one at least"
            raise SettingError(problem, parameter="ids", value=ids)
        return rows

    def check_row(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Some token ids, or none, as int64 [T]; errors are those of `check_ids`."""
        vocab_size = self.bundle.architecture.vocab_size
        if type(ids) is list and len(ids) == 1 and type(ids[0]) is int and 0 <= ids[0] < vocab_size:
            return np.array(ids)  # a row of a decode step, of which there may be hundreds
        try:
            row = np.asarray(ids)
        except (TypeError, ValueError, OverflowError) as error:
            problem = f"row of ids is {type(ids).__name__}, must be integers of shape [T]"
            raise SettingError(problem, parameter="ids", value=ids) from error
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            problem = f"row of ids is {row.dtype} of shape {row.shape}, must be integers of shape [T]"
            raise SettingError(problem, parameter="ids", value=ids)
        if not row.size:
            return np.empty(0, dtype=np.int64)  # an empty list is of no integers yet
        outside = row[(row < 0) | (row >= vocab_size)]
        if outside.size:
            problem = f"token id is {outside[0]}, must be from 0 to {vocab_size - 1}"
            raise TokenIdError(problem, parameter="ids", value=int(outside[0]))
        return row.astype(np.int64, copy=False)

    def _check_cache(self, cache: KeyValueCache, rows: Sequence[npt.NDArray[np.int64]]) -> None:
        if not isinstance(cache, KeyValueCache):
            raise invalid("cache", cache, "must come from empty_cache or the step before")
        if cache.owner is not self.opened.owner:
            problem = "cache is of another session; start from empty_cache of this one"
            raise SettingError(problem, parameter="cache", value=cache)
        if cache.batch_size != len(rows):
            problem = f"cache has {cache.batch_size} rows, the step {len(rows)}; leave idle rows empty: []"
            raise SettingError(problem, parameter="cache", value=cache)
        for row, (length, new) in enumerate(zip(cache.lengths, rows, strict=True)):
            if length + len(new) > cache.capacity:
                limit = f"the cache has {cache.capacity}, the model {self.bundle.architecture.n_positions}"
                problem = f"row {row} needs {length + len(new)} positions, {limit}"
                raise ContextFullError(f"{problem}; roll the cache back or start a new one")


def _keeps(given: int | Sequence[int], rows: Sequence[npt.NDArray[np.int64]]) -> list[int]:
    """For each row the number of its last tokens after which there are logits, [B]."""
    if not isinstance(given, list | tuple):
        check_integer("logits_to_keep", given, 1, max(map(len, rows)))
        return [min(cast(int, given), len(row)) for row in rows]
    if len(given) != len(rows):
        problem = f"logits_to_keep are {len(given)}, the step has {len(rows)} rows; pass one for each"
        raise SettingError(problem, parameter="logits_to_keep", value=given)
    for row, (keep, new) in enumerate(zip(given, rows, strict=True)):
        check_integer("logits_to_keep", keep, 0, len(new), why=f", the tokens that row {row} reads")
    return list(given)
