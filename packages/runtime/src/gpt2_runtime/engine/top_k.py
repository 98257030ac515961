"""Selects the highest logits of each row with a graph of two operators, on the device that holds the logits.

`top_k.onnx` is this, in ONNX's own notation::

    <ir_version: 8, opset_import: ["": 13]>
    top_k (float[N, V] logits, int64[1] count) => (float[N, M] values, int64[N, M] ids, float[N] sums)
    <int64[1] axes = {1}> {
        values, ids = TopK <axis = 1> (logits, count)
        sums = ReduceSum <keepdims = 0> (logits, axes)
    }

N rows, V vocabulary, M tokens of each row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt2_runtime.providers.provider import HOST
from gpt2_runtime.sampling.top_logits import Highest

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GRAPH = Path(__file__).with_name("top_k.onnx")


class TopK:
    """The graph in onnxruntime, on a device; opened when first needed, since a single text never needs it.

    Args:
        open_graph: opens GRAPH on the device.
        device: onnxruntime's name for the device of the logits; on the host it would save nothing.
    """

    def __init__(self, open_graph: Callable[[], InferenceSession], device: str) -> None:
        self._open_graph = open_graph
        self._device = device

    @cached_property
    def inference(self) -> InferenceSession:
        """onnxruntime's session."""
        return self._open_graph()

    def highest(self, address: int, rows: int, vocab_size: int, count: int) -> Highest:
        """The `count` highest of the logits [N, V] at an address on the device; all if V is less."""
        binding = self.inference.io_binding()
        binding.bind_input("logits", self._device, 0, np.float32, (rows, vocab_size), address)
        binding.bind_cpu_input("count", np.array([min(count, vocab_size)], np.int64))
        for output in ("values", "ids", "sums"):
            binding.bind_output(output, HOST.device)
        self.inference.run_with_iobinding(binding)
        values, ids, sums = binding.copy_outputs_to_cpu()
        # What is not finite has no finite sum; what overflows on the way is taken for it, and then looked at closely.
        return Highest(values, ids, np.isfinite(sums), vocab_size)
