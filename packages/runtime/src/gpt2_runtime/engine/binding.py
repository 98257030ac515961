"""A call of one shape, bound once: its arrays are overwritten in place instead of being passed with each call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gpt2_runtime.engine.buffers import Allocation
from gpt2_runtime.engine.logits import DeviceLogits, HostLogits, Logits
from gpt2_runtime.graphs.graph_signature import cache_names
from gpt2_runtime.providers.providers import load_onnxruntime

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

Array = npt.NDArray[Any]

ALIGNMENT = 64  # bytes: of every input in the memory that they share


class Binding:
    """The serving graph over some rows of a cache, for one number of tokens and of logits.

    Building one takes longer than everything else that Python does in a step; running it adds nothing.

    Args:
        inference: the serving graph.
        allocation: the cache's keys and values; the graph reads and writes them in place.
        first, rows: the first row, and the number of rows, B.
        tokens: T, per row.
        logits: N, the number of rows of logits to compute.
        capture: the number of the CUDA graph that the first run captures and the others replay; -1 for a call that is
            not captured in a session that captures others, None in a session that captures nothing.
    """

    def __init__(
        self,
        inference: InferenceSession,
        allocation: Allocation,
        *,
        first: int,
        rows: int,
        tokens: int,
        logits: int,
        capture: int | None = None,
    ) -> None:
        self._inference = inference
        self._logits_shape = (logits, inference.get_outputs()[0].shape[1])
        # GroupQueryAttention reads it on the host to choose its kernel. A captured run serves all lengths: it gets the
        # longest, and reads each row's own length on the device.
        self._total = np.full((), allocation.shape[4], dtype=np.int32)
        self._captured = capture is not None and capture >= 0
        self._inputs, self._packed = _packed(
            input_ids=((rows, tokens), np.int64),
            position_ids=((rows, tokens), np.int64),
            seqlens_k=((rows,), np.int32),
            logits_index=((logits,), np.int64),
        )
        self._binding = inference.io_binding()
        self._copy: OrtValue | None = None
        values = load_onnxruntime().OrtValue
        if allocation.remote:
            # onnxruntime copies host arrays to a device when they are bound, not at each run, so `run` updates a copy.
            self._copy = values.ortvalue_from_numpy(self._packed, allocation.device)
        start = self._copy.data_ptr() if self._copy is not None else self._packed.ctypes.data
        for name, array in self._inputs.items():
            address = start + array.ctypes.data - self._packed.ctypes.data
            self._binding.bind_input(name, allocation.device, 0, array.dtype, array.shape, address)
        self._binding.bind_ortvalue_input("total_sequence_length", wrapped(self._total))
        self._logits: OrtValue | None = None
        self._options = None
        if allocation.remote:
            self._logits = values.ortvalue_from_shape_and_type(self._logits_shape, np.float32, allocation.device)
            self._binding.bind_ortvalue_output("logits", self._logits)
        if capture is not None:
            self._options = load_onnxruntime().RunOptions()
            self._options.add_run_config_entry("gpu_graph_id", str(capture))
        # Keeps the memory alive, which the binding does not.
        self._alive = allocation.owner
        shape = (rows, *allocation.shape[3:])  # [B, H, capacity + 1, D]
        for prefix, bind in (
            ("past_key_values", self._binding.bind_input),
            ("present", self._binding.bind_output),
        ):
            names = cache_names(prefix, allocation.shape[0])
            for name, address in zip(names, allocation.addresses(first), strict=True):
                bind(name, allocation.device, 0, allocation.dtype, shape, address)

    def run(self, feeds: Mapping[str, Array]) -> Logits:
        """Runs the graph once, writing into the memory; the logits [N, V] of a device are valid until the next run."""
        for name, array in self._inputs.items():
            array[...] = feeds[name]
        if not self._captured:
            self._total[...] = feeds["total_sequence_length"]
        if self._copy is not None:
            self._copy.update_inplace(self._packed)
        if self._logits is not None:
            self._inference.run_with_iobinding(self._binding, self._options)
            return DeviceLogits(self._logits, self._logits.data_ptr(), self._logits_shape)
        logits = np.empty(self._logits_shape, dtype=np.float32)
        # The graph writes into the caller's array: rebinding an output is cheaper than copying it.
        self._binding.bind_ortvalue_output("logits", wrapped(logits))
        self._inference.run_with_iobinding(self._binding, self._options)
        return HostLogits(logits)


def _packed(**inputs: tuple[tuple[int, ...], npt.DTypeLike]) -> tuple[dict[str, Array], npt.NDArray[np.uint8]]:
    """Arrays side by side in one block of memory, so that one copy moves all of them to a device; and that block.

    >>> arrays, memory = _packed(a=((2, 3), np.int64), b=((1,), np.int32))
    >>> arrays["a"].shape, arrays["b"].ctypes.data - memory.ctypes.data
    ((2, 3), 64)
    """
    starts, size = {}, 0
    for name, (shape, dtype) in inputs.items():
        starts[name] = size
        size += -(-math.prod(shape) * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT
    memory = np.zeros(size, dtype=np.uint8)
    arrays = {}
    for name, (shape, dtype) in inputs.items():
        count = math.prod(shape) * np.dtype(dtype).itemsize
        arrays[name] = memory[starts[name] : starts[name] + count].view(dtype).reshape(shape)
    return arrays, memory


def wrapped(array: Array) -> OrtValue:
    """An OrtValue over the array's own memory, which must outlive it."""
    value = load_onnxruntime().OrtValue.ortvalue_from_numpy(array)
    # Past and present share memory only if neither was copied. (An empty array has no meaningful address.)
    assert value.data_ptr() == array.ctypes.data or not array.size
    return value
