"""One graph, opened: token ids and a cache in, logits and a cache out. Every onnxruntime call is here.

B rows, T new tokens, P past positions, H heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gpt2_runtime.bundle import Architecture, Bundle
from gpt2_runtime.cache import KeyValue, KeyValueCache
from gpt2_runtime.errors import ContextFullError, GraphError, SettingError, TokenIdError
from gpt2_runtime.providers import Provider, check_provider, choose_provider, choose_threads, load_onnxruntime

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """The name, element type and axes of a graph's input or output; an axis that varies has a name."""

    name: str
    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class Session:
    """The portable graph of a folder, ready to step. It holds no state: threads may share it.

    >>> session = Session.open(folder)
    >>> logits, cache = session.step(np.array([[5, 6, 7]]), session.empty_cache())
    >>> logits.shape == (1, 3, session.bundle.architecture.vocab_size)
    True
    >>> logits, cache = session.step(np.array([[8]]), cache)
    >>> cache.length
    4
    """

    bundle: Bundle
    provider: Provider
    threads: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    inference: InferenceSession

    @classmethod
    def open(cls, folder: str | Path | Bundle, *, provider: str = "cpu", threads: int | None = None) -> Session:
        """Opens the folder's fp32 portable graph.

        Args:
            folder: the exported folder, or its Bundle where it is open already.
            provider: "cpu" or "cuda"; the other is never taken in its place.
            threads: how many threads one operator may use; by default what affinity and quota let this process use.

        Raises:
            BundleError: the folder is damaged (GraphError: its graph is not the one its config describes).
            ProviderError: the provider is not there.
            SettingError: `threads` is out of range.
        """
        bundle = folder if isinstance(folder, Bundle) else Bundle.open(folder)
        path = bundle.graph("fp32", "portable")
        chosen = choose_provider(provider)
        threads = choose_threads(threads)
        inference = _open_graph(path, chosen, threads)
        inputs, outputs = _specs(inference.get_inputs()), _specs(inference.get_outputs())
        _check_specs(f"{path}: input", inputs, _expected_inputs(bundle.architecture))
        _check_specs(f"{path}: output", outputs, _expected_outputs(bundle.architecture))
        return cls(bundle=bundle, provider=chosen, threads=threads, inputs=inputs, outputs=outputs, inference=inference)

    def empty_cache(self, batch_size: int = 1) -> KeyValueCache:
        """The cache before the first step of `batch_size` rows."""
        OrtValue = load_onnxruntime().OrtValue
        sizes = self.bundle.architecture
        shape = [batch_size, sizes.n_head, 0, sizes.head_dim]
        nothing = OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self.provider.device)
        layers = tuple(KeyValue(nothing, nothing) for _ in range(sizes.n_layer))
        return KeyValueCache(batch_size=batch_size, length=0, layers=layers)

    def step(
        self, ids: npt.NDArray[np.integer] | Sequence[Sequence[int]], cache: KeyValueCache
    ) -> tuple[npt.NDArray[np.float32], KeyValueCache]:
        """Reads T more tokens of every row.

        Args:
            ids: [B, T], T at least 1.
            cache: of the positions before them, from `empty_cache` or an earlier step; it stays usable.

        Returns:
            logits [B, T, V] on the host, and the cache of P + T positions, which has not left the device.

        Raises:
            TokenIdError: an id outside the vocabulary.
            ContextFullError: P + T is more than the model's positions.
            SettingError: `ids` is not [B, T] of integers, or the cache is of other rows or another model.
        """
        ids = self.check_ids(ids)
        B, T = ids.shape
        self._check_cache(cache, B, T)
        P = cache.length
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones((B, P + T), dtype=np.int64),
            "position_ids": np.tile(np.arange(P, P + T, dtype=np.int64), (B, 1)),
        }
        binding = self.inference.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name, tensor in zip(_cache_names("past_key_values", cache), _tensors(cache), strict=True):
            binding.bind_ortvalue_input(name, tensor)
        binding.bind_output("logits", "cpu")
        for name in _cache_names("present", cache):
            binding.bind_output(name, self.provider.device)
        self.inference.run_with_iobinding(binding)
        logits, *present = binding.get_outputs()
        layers = tuple(map(KeyValue, present[::2], present[1::2]))
        return logits.numpy(), KeyValueCache(batch_size=B, length=P + T, layers=layers)

    def check_ids(self, ids: npt.NDArray[np.integer] | Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
        """`ids` as int64 [B, T]; SettingError for another shape or type, TokenIdError outside the vocabulary."""
        array = np.asarray(ids)
        if array.ndim != 2 or array.dtype.kind not in "iu" or array.size == 0:
            raise SettingError(f"ids are {array.dtype} of shape {array.shape}, must be integers of shape [B, T]")
        vocab_size = self.bundle.architecture.vocab_size
        outside = array[(array < 0) | (array >= vocab_size)]
        if outside.size:
            raise TokenIdError(f"token id is {outside[0]}, must be from 0 to {vocab_size - 1}")
        return np.ascontiguousarray(array, dtype=np.int64)

    def _check_cache(self, cache: KeyValueCache, rows: int, new: int) -> None:
        sizes = self.bundle.architecture
        if cache.batch_size != rows or len(cache.layers) != sizes.n_layer:
            has = f"{cache.batch_size} rows and {len(cache.layers)} layers"
            raise SettingError(f"cache has {has}, the step {rows} and {sizes.n_layer}; start from empty_cache")
        reads = cache.length + new
        if reads > sizes.n_positions:
            told = f"step needs {reads} positions, the model has {sizes.n_positions}"
            raise ContextFullError(f"{told}; roll the cache back or start a new one")


def _open_graph(path: Path, provider: Provider, threads: int) -> InferenceSession:
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A memory pattern is planned for one set of shapes; here the past grows with every step, and so would the plans.
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # what goes wrong comes as an exception, not also on stderr
    try:
        inference: InferenceSession = onnxruntime.InferenceSession(
            str(path),
            sess_options=options,
            providers=[(provider.execution_provider, dict(provider.options))],
            enable_fallback=0,
        )
    except Exception as error:  # onnxruntime's errors have no common base but this one
        reason = " ".join(str(error).split())
        raise GraphError(f"{path} cannot be opened, check the folder with --check-hashes: {reason}") from error
    check_provider(provider, list(inference.get_providers()))
    return inference


def _specs(nodes: Sequence[NodeArg]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=node.name, type=node.type, shape=tuple(node.shape)) for node in nodes)


def _cache_names(prefix: str, cache: KeyValueCache) -> list[str]:
    return [f"{prefix}.{i}.{part}" for i in range(len(cache.layers)) for part in KeyValue._fields]


def _tensors(cache: KeyValueCache) -> list[object]:
    return [tensor for layer in cache.layers for tensor in layer]


def _expected_inputs(sizes: Architecture) -> list[TensorSpec]:
    rows = [
        TensorSpec(name="input_ids", type="tensor(int64)", shape=("batch_size", "sequence_length")),
        TensorSpec(name="attention_mask", type="tensor(int64)", shape=("batch_size", "total_sequence_length")),
        TensorSpec(name="position_ids", type="tensor(int64)", shape=("batch_size", "sequence_length")),
    ]
    return rows + _expected_cache("past_key_values", "past_sequence_length", sizes)


def _expected_outputs(sizes: Architecture) -> list[TensorSpec]:
    shape = ("batch_size", "sequence_length", sizes.vocab_size)
    logits = TensorSpec(name="logits", type="tensor(float)", shape=shape)
    return [logits, *_expected_cache("present", "total_sequence_length", sizes)]


def _expected_cache(prefix: str, length: str, sizes: Architecture) -> list[TensorSpec]:
    shape = ("batch_size", sizes.n_head, length, sizes.head_dim)
    return [
        TensorSpec(name=f"{prefix}.{i}.{part}", type="tensor(float)", shape=shape)
        for i in range(sizes.n_layer)
        for part in KeyValue._fields
    ]


def _check_specs(where: str, found: Sequence[TensorSpec], expected: Sequence[TensorSpec]) -> None:
    """Refuses a graph whose tensors differ from the expected ones in name, type, rank or a fixed axis."""
    found_by_name = {spec.name: spec for spec in found}
    names = [spec.name for spec in expected]
    missing = [name for name in names if name not in found_by_name]
    unexpected = [name for name in found_by_name if name not in names]
    if missing or unexpected:
        told = f"missing {', '.join(missing) or 'none'}; unexpected {', '.join(unexpected) or 'none'}"
        raise GraphError(f"{where}s are not the portable graph's: {told}; export the folder again")
    for spec in expected:
        other = found_by_name[spec.name]
        if other.type != spec.type or _fixed_axes(other.shape) != _fixed_axes(spec.shape):
            is_, must = f"{other.type} {list(other.shape)}", f"{spec.type} {list(spec.shape)}"
            raise GraphError(f"{where} {spec.name} is {is_}, config.json wants {must}; export the folder again")


def _fixed_axes(shape: Sequence[int | str]) -> list[int | None]:
    return [axis if isinstance(axis, int) else None for axis in shape]
