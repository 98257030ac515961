"""One shape of run, bound once: arrays that are overwritten in place instead of being handed over with each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gpt2_runtime.buffers import Allocation
from gpt2_runtime.providers import load_onnxruntime
from gpt2_runtime.signature import cache_names

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

Array = npt.NDArray[Any]

# GroupQueryAttention reads it before it starts anything on a device.
ON_HOST = ("total_sequence_length",)


class Binding:
    """The serving graph over some rows of a cache, for one number of tokens and of logits.

    To build one takes longer than all else that Python does in a step; to run through it takes nothing more.

    Args:
        inference: the serving graph.
        allocation: the cache's keys and values; the graph reads and writes them in place.
        first, rows: B of them, from the first.
        tokens: T, of each row.
        logits: N, how many the graph computes.
    """

    def __init__(
        self, inference: InferenceSession, allocation: Allocation, *, first: int, rows: int, tokens: int, logits: int
    ) -> None:
        self._inference = inference
        self._inputs: dict[str, Array] = {
            "input_ids": np.empty((rows, tokens), dtype=np.int64),
            "position_ids": np.empty((rows, tokens), dtype=np.int64),
            "seqlens_k": np.empty(rows, dtype=np.int32),
            "total_sequence_length": np.empty((), dtype=np.int32),
            "logits_index": np.empty(logits, dtype=np.int64),
        }
        self._logits_shape = (logits, inference.get_outputs()[0].shape[1])
        # The binding refers to memory that it does not keep alive: these do.
        self._alive = [allocation]
        self._binding = inference.io_binding()
        # What the host has is copied to a device when it is bound, not when it is run: there, it is written anew.
        self._copies: dict[str, OrtValue] = {}
        for name, array in self._inputs.items():
            value = wrapped(array)
            if allocation.remote and name not in ON_HOST:
                value = self._copies[name] = type(value).ortvalue_from_numpy(np.zeros_like(array), allocation.device)
            self._binding.bind_ortvalue_input(name, value)
        shape = (rows, *allocation.shape[3:])  # [B, H, capacity + 1, D]
        for prefix, bind in (
            ("past_key_values", self._binding.bind_input),
            ("present", self._binding.bind_output),
        ):
            names = cache_names(prefix, allocation.shape[0])
            for name, address in zip(names, allocation.addresses(first), strict=True):
                bind(name, allocation.device, 0, allocation.dtype, shape, address)

    def run(self, feeds: Mapping[str, Array]) -> npt.NDArray[np.float32]:
        """Runs the graph once, which writes into the memory; logits [N, V] on the host, which are the caller's."""
        for name, array in self._inputs.items():
            array[...] = feeds[name]
        for name, value in self._copies.items():
            value.update_inplace(self._inputs[name])
        # The graph writes them where the caller reads them: to bind an output anew takes less than to copy it.
        logits = np.empty(self._logits_shape, dtype=np.float32)
        self._binding.bind_ortvalue_output("logits", wrapped(logits))
        self._inference.run_with_iobinding(self._binding)
        return logits


def wrapped(array: Array) -> OrtValue:
    """An OrtValue that is the array's own memory, which must outlive it."""
    value = load_onnxruntime().OrtValue.ortvalue_from_numpy(array)
    # Past and present are one memory only if neither was copied. (An empty array has no address to speak of.)
    assert value.data_ptr() == array.ctypes.data or not array.size
    return value
