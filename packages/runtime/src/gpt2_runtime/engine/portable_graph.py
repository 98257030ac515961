"""The portable graph: steps of rows of equal length, over a past that grows by concatenation.

B rows, T new tokens, P past positions, H heads, D head size, K logits after each row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gpt2_runtime.engine.cache import KeyValueCache, Layout
from gpt2_runtime.engine.logits import DeviceLogits, HostLogits, Logits, Row
from gpt2_runtime.engine.ort_values import cut, gathered, read, remote, replaced
from gpt2_runtime.engine.step_plan import chunks
from gpt2_runtime.engine.top_k import TopK
from gpt2_runtime.errors import SettingError
from gpt2_runtime.folder.bundle import Architecture
from gpt2_runtime.graphs.graph_signature import cache_names
from gpt2_runtime.providers.providers import load_onnxruntime

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

# The graph computes logits at every position: 206 MB for 1024 positions of GPT-2's vocabulary.
PREFILL_CHUNK = 256

REMEDY = "step them separately, or open the serving graph"


@dataclass(frozen=True, kw_only=True, eq=False)
class GrownCache(KeyValueCache):
    """The keys and values of each layer, [B, H, P, D], on the session's device; a step makes new ones.

    They may have one extra row, a copy of another: see `PortableGraph.even`.
    """

    tensors: tuple[OrtValue, ...]

    @property
    def layout(self) -> Layout:
        _, heads, _, size = self.tensors[0].shape()
        return (len(self.tensors) // 2, 2, heads, size), np.dtype(np.float32)

    def copy(self) -> GrownCache:
        return self

    def _shortened(self, lengths: tuple[int, ...]) -> GrownCache:
        length = only(lengths, "rows would be cropped to")
        if lengths == self.lengths:
            return self
        return replace(self, lengths=lengths, tensors=tuple(cut(tensor, length) for tensor in self.tensors))

    def _selected(self, rows: tuple[int, ...]) -> GrownCache:
        if rows == tuple(range(self.batch_size)):
            return self
        lengths = tuple(self.lengths[row] for row in rows)
        return replace(self, lengths=lengths, tensors=tuple(gathered(tensor, rows) for tensor in self.tensors))

    def _read(self, row: int, length: int) -> npt.NDArray[np.floating]:
        parts = [read(tensor, row, length) for tensor in self.tensors]  # each [H, length, D]
        return np.stack([np.stack(parts[::2]), np.stack(parts[1::2])], axis=1)  # [L, 2, H, length, D]

    def _written(self, row: int, text: npt.NDArray[np.floating]) -> GrownCache:
        lengths = (*self.lengths[:row], text.shape[3], *self.lengths[row + 1 :])
        only(lengths, "rows would hold")
        parts = [part for layer in text for part in layer]  # each [H, length, D], in the order of the tensors
        held = only_rows(self.tensors, range(self.batch_size))
        tensors = tuple(replaced(tensor, row, part) for tensor, part in zip(held, parts, strict=True))
        return replace(self, lengths=lengths, tensors=tensors)


@dataclass(frozen=True, kw_only=True)
class PortableGraph:
    """The graph in onnxruntime, on the session's device, where `top_k` selects the highest logits.

    If `even`, every run has an even number of tokens, for the reasons in `step_plan`: with one extra row if rows have
    one token, else with one extra token per row.
    """

    inference: InferenceSession
    sizes: Architecture
    device: str
    top_k: TopK | None = None
    even: bool = False

    @property
    def owner(self) -> InferenceSession:
        return self.inference

    @property
    def packed(self) -> bool:
        return True

    def empty_cache(self, batch_size: int, capacity: int) -> GrownCache:
        """A cache of `batch_size` rows, each with room for `capacity` tokens."""
        OrtValue = load_onnxruntime().OrtValue
        shape = [batch_size, self.sizes.n_head, 0, self.sizes.head_dim]
        nothing = OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self.device)
        tensors = (nothing,) * (2 * self.sizes.n_layer)
        return GrownCache(lengths=(0,) * batch_size, capacity=capacity, owner=self.inference, tensors=tensors)

    def step(
        self, rows: Sequence[npt.NDArray[np.int64]], cache: GrownCache, keep: int
    ) -> tuple[npt.NDArray[np.float32], GrownCache]:
        """Reads rows [B] of [T] that fit the cache; returns logits [B, K, V]."""
        ids = joined(rows)  # [B, T]
        B, T = ids.shape
        parts = []
        for part in chunks(T, PREFILL_CHUNK):
            scores, cache = self._run(ids[:, part.start : part.stop], cache)
            parts.append(scores.ends(B, len(part) - min(len(part), max(0, T - keep - part.start))))
        return np.concatenate(parts, axis=1), cache

    def step_top_k(
        self,
        rows: Sequence[npt.NDArray[np.int64]],
        cache: GrownCache,
        keep: Sequence[int],
        counts: Sequence[int | None],
    ) -> tuple[list[list[Row]], GrownCache]:
        """The same, but of the logits after each row's last `keep` [B] tokens only the `counts` [B] highest."""
        ids = joined(rows)
        T, most = ids.shape[1], max(keep)
        if T == most <= PREFILL_CHUNK:
            scores, cache = self._run(ids, cache)
            tops = scores.rows([count for count in counts for _ in range(T)], self.top_k)
            every = [tops[start : start + T] for start in range(0, len(tops), T)]
        else:
            logits, cache = self.step(rows, cache, max(1, most))
            every = [list(row) for row in logits]
        return [row[len(row) - count :] for row, count in zip(every, keep, strict=True)], cache

    def _run(self, ids: npt.NDArray[np.int64], cache: GrownCache) -> tuple[Logits, GrownCache]:
        """Reads ids [B, T] in one call; returns logits [B * T, V]. The present stays on the device."""
        if self.even:
            return self._run_even(ids, cache)
        return self._call(ids, cache)

    def _run_even(self, ids: npt.NDArray[np.int64], cache: GrownCache) -> tuple[Logits, GrownCache]:
        """The same with an even number of tokens; drops the results of the extra ones."""
        B, T = ids.shape
        more_rows, more_tokens = (B % 2, 0) if T == 1 else (0, B * T % 2)
        padded = np.pad(ids, ((0, more_rows), (0, more_tokens)))
        rows = [*range(B), *[0] * more_rows]
        P = cache.lengths[0]
        scores, stepped = self._call(padded, replace(cache, tensors=only_rows(cache.tensors, rows)))
        if more_tokens:
            stepped = replace(stepped, tensors=tuple(cut(tensor, P + T) for tensor in stepped.tensors))
        logits = scores.all().reshape(len(rows), T + more_tokens, -1)[:B, :T]
        return HostLogits(logits.reshape(B * T, -1)), replace(stepped, lengths=(P + T,) * B)

    def _call(self, ids: npt.NDArray[np.int64], cache: GrownCache) -> tuple[Logits, GrownCache]:
        B, T = ids.shape
        P = cache.lengths[0]
        # The extra token of a text that fills the model has no position of its own.
        positions = np.minimum(np.arange(P, P + T, dtype=np.int64), self.sizes.n_positions - 1)
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones((B, P + T), dtype=np.int64),
            "position_ids": np.tile(positions, (B, 1)),
        }
        binding = self.inference.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name, tensor in zip(cache_names("past_key_values", self.sizes.n_layer), cache.tensors, strict=True):
            binding.bind_ortvalue_input(name, tensor)
        binding.bind_output("logits", self.device)
        for name in cache_names("present", self.sizes.n_layer):
            binding.bind_output(name, self.device)
        self.inference.run_with_iobinding(binding)
        logits, *present = binding.get_outputs()
        shape = B * T, self.sizes.vocab_size
        scores: Logits
        if remote(logits):
            scores = DeviceLogits(logits, logits.data_ptr(), shape)
        else:
            scores = HostLogits(logits.numpy().reshape(shape))
        return scores, replace(cache, lengths=(P + T,) * B, tensors=tuple(present))


def only_rows(tensors: tuple[OrtValue, ...], rows: Sequence[int]) -> tuple[OrtValue, ...]:
    """These rows of each tensor; the tensors themselves if they have as many rows."""
    if tensors[0].shape()[0] == len(rows):
        return tensors
    return tuple(gathered(tensor, rows) for tensor in tensors)


def joined(rows: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Rows of equal length as [B, T]; SettingError if their lengths differ."""
    only([len(row) for row in rows], "rows read")
    return np.array(rows)


def only(counts: Sequence[int], what: str) -> int:
    """The count that all rows have; SettingError if they differ."""
    if len(set(counts)) > 1:
        problem = ", ".join(map(str, counts))
        raise SettingError(f"{what} {problem} tokens, the portable graph's rows must have equal lengths; {REMEDY}")
    return counts[0]
