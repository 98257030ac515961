"""The serving graph in onnxruntime, with its weights as stored or packed for this processor.

Packing takes longer than everything else before the first token, and makes every later step faster
(benchmarks/variants.py measures how much). So a session can open at once over the mapped file, and pack when it is
clear that more than a few tokens will be read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from gpt2_runtime.engine.binding import Binding
from gpt2_runtime.engine.buffers import Allocation
from gpt2_runtime.errors import GraphError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# Read unpacked after the first step. A fixed number, so that a seed's text does not depend on a clock; small, since
# packing a few tokens late loses less than a short text saves by never packing.
UNPACKED_TOKENS = 16

# Shapes of runs that a cache keeps bound; the least recently used are dropped.
BINDINGS = 16

# onnxruntime frees a captured graph only with its session.
MOST_CAPTURED = 64

Shape = tuple[int, int, int, int]
"""First row, rows, tokens, logits."""


class PackedSession:
    """A graph opened by `open_graph`, first with its weights packed or not. Threads may share it.

    Args:
        open_graph: packed? -> onnxruntime's session.
        files: the files that it reads; they must not change before it is called again.
        packed: whether to pack now, or after the first step and UNPACKED_TOKENS more tokens.
        captures: whether to capture steps of all rows of a cache by one token as CUDA graphs. Threads then take turns
            on the GPU: a capture fails even if another thread only copies there meanwhile.
    """

    def __init__(
        self,
        open_graph: Callable[[bool], InferenceSession],
        files: Sequence[Path],
        *,
        packed: bool,
        captures: bool = False,
    ) -> None:
        self._open_graph = open_graph
        self._files = {file: _state(file) for file in files}
        self._lock = Lock()
        self._left: int | None = None  # tokens that are still read unpacked; not counted before the first step
        self._inference: InferenceSession | None = open_graph(packed)
        self._bindings: WeakKeyDictionary[Allocation, OrderedDict[Shape, Binding]] = WeakKeyDictionary()
        self._captures = count() if captures else None
        self.turn: AbstractContextManager[object] = Lock() if captures else nullcontext()
        self.packed = packed

    @property
    def inference(self) -> InferenceSession:
        """The current onnxruntime session."""
        with self._lock:
            return self._current()

    def expect(self, tokens: int) -> None:
        """Packs the weights if it is time to, before a step that reads this number of tokens.

        Raises:
            GraphError: they cannot be packed, because the folder has changed.
        """
        with self._lock:
            if self.packed:
                return
            if self._left is None:
                self._left = UNPACKED_TOKENS
            elif tokens <= self._left:
                self._left -= tokens
            else:
                self._left = 0  # if packing fails, the next step tries again
                self._pack()

    def binding(self, allocation: Allocation, first: int, rows: int, tokens: int, logits: int) -> Binding:
        """The graph bound to some rows of a cache, for one shape of run."""
        shape = first, rows, tokens, logits
        with self._lock:
            known = self._bindings.setdefault(allocation, OrderedDict())
            if shape not in known:
                known[shape] = self._bound(allocation, shape)
                if len(known) > BINDINGS:
                    known.popitem(last=False)
            known.move_to_end(shape)
            return known[shape]

    def _bound(self, allocation: Allocation, shape: Shape) -> Binding:
        first, rows, tokens, logits = shape
        capture = None
        if self._captures:
            steady = shape == (0, allocation.shape[2], 1, allocation.shape[2])
            number = next(self._captures) if steady else MOST_CAPTURED
            capture = number if number < MOST_CAPTURED else -1
        inference = self._current()
        return Binding(inference, allocation, first=first, rows=rows, tokens=tokens, logits=logits, capture=capture)

    def _pack(self) -> None:
        for file, state in self._files.items():
            if _state(file) != state:
                raise GraphError(f"{file} has changed since the folder was opened; open it again")
        # Unmap the file before packing, so that memory never holds both.
        self._inference = None
        self._bindings.clear()
        self._inference = self._open_graph(True)
        self.packed = True

    def _current(self) -> InferenceSession:
        if self._inference is None:
            raise GraphError("the graph could not be opened again to pack its weights; open the folder again")
        return self._inference


def _state(file: Path) -> tuple[int, ...] | None:
    """The state of a file, to detect changes; None if it is gone."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
