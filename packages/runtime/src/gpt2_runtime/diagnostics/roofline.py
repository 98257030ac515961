"""How fast this machine reads, and what a decode step has to read: together, the fastest that a step can be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from threading import Thread
from time import perf_counter

import numpy as np
import numpy.typing as npt

from gpt2_runtime.engine.buffers import Allocation
from gpt2_runtime.errors import BundleError
from gpt2_runtime.folder.bundle import Bundle
from gpt2_runtime.providers import cuda_memory
from gpt2_runtime.providers.cuda_memory import Direction

ARRAY_BYTES = 512_000_000  # far beyond any cache
PASSES = 3
FLOAT32_BYTES = 4


def bandwidth_array() -> npt.NDArray[np.uint8]:
    """An array to read, already written, since unwritten pages all map to one page of zeros."""
    return np.ones(ARRAY_BYTES, np.uint8)


def read_bandwidth(array: npt.NDArray[np.uint8], threads: int) -> float:
    """Bytes per second of the fastest of a few passes over `array`, each thread its own part.

    The maximum of bytes is numpy's cheapest reduction per byte, and releases the GIL.

    >>> read_bandwidth(np.ones(1000, np.uint8), 2) > 0
    True
    """
    parts = np.array_split(array, threads)
    return array.nbytes / min(_pass(parts) for _ in range(PASSES))


def copy_bandwidth(memory: Allocation) -> float:
    """Bytes per second, read and written, of the fastest of a few copies between two halves of a device's memory.

    Only reading would need our own kernel.
    """
    half = memory.size // 2

    def seconds() -> float:
        start = perf_counter()
        cuda_memory.copy_bytes(memory.address + half, memory.address, half, Direction.ON_DEVICE)
        cuda_memory.wait()
        return perf_counter() - start

    return 2 * half / min(seconds() for _ in range(PASSES))


def _pass(parts: Sequence[npt.NDArray[np.uint8]]) -> float:
    workers = [Thread(target=np.max, args=(part,)) for part in parts]
    start = perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return perf_counter() - start


def weight_bytes(bundle: Bundle, precision: str = "fp32", *, widened: bool = True) -> int:
    """The bytes of weights that every step reads: all but the embeddings, where it reads one row per token.

    A tied head is the embedding, and is read whole.

    Args:
        bundle, precision: the folder and the precision of its weights.
        widened: whether it reads a float32 copy of float16 weights: see `Provider.widens_float16`.

    Raises:
        BundleError: the weights file is not a safetensors file.
    """
    path = bundle.files[bundle.weights[precision]].path
    copied = 2 if widened else 1
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = dict(json.loads(file.read(length).ljust(length, b"?")))  # what is cut off is no JSON
        header.pop("__metadata__", None)
        sizes = {
            name: (entry["data_offsets"][1] - entry["data_offsets"][0]) * (copied if entry["dtype"] == "F16" else 1)
            for name, entry in header.items()
        }
        if not sizes:
            raise ValueError("no tensors")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BundleError(f"{path} is not a whole safetensors file; copy or export the folder again") from error
    untied = any(name.startswith("lm_head.weight") for name in sizes)
    unread = ("wpe.weight", *(["wte.weight"] if untied else []))  # or their blocks and scales
    return sum(size for name, size in sizes.items() if not name.removeprefix("transformer.").startswith(unread))


def cache_bytes(bundle: Bundle, context: int, batch: int, *, itemsize: int = FLOAT32_BYTES) -> int:
    """The bytes of keys and values that a step of `batch` rows of `context` tokens reads; `itemsize` bytes each."""
    sizes = bundle.architecture
    return 2 * sizes.n_layer * sizes.n_embd * itemsize * context * batch
