"""The serving graph in onnxruntime: over the weights as they lie in their file, or packed for this processor.

To pack them takes longer than everything else between a start and the first token, and makes every step after that
faster (benchmarks/variants.py tells how much). So an engine can be opened at once, over the mapped file, and pack when
it is clear that more than a few tokens will be read.
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

# Read unpacked after the first step. A counted number, so that a seed's text does not hang on a clock; small, for what
# is lost by packing after a few tokens more is less than what a short text saves by never packing.
UNPACKED_TOKENS = 16

# A cache keeps so many shapes of runs bound; of those that come and go with the prompts the oldest are forgotten.
BINDINGS = 16

# onnxruntime lets go of a captured graph with the session, not before.
MOST_CAPTURED = 64

Shape = tuple[int, int, int, int]
"""First row, rows, tokens, logits."""


class PackedSession:
    """A graph that is opened by `open_graph`, at first with its weights packed or not. Threads may share it.

    Args:
        open_graph: packed? -> onnxruntime's session.
        files: what it reads; they must be the same when it is called again.
        packed: whether to pack now, or after the first step and UNPACKED_TOKENS tokens more.
        captures: whether steps of all rows of a cache by one token are captured as CUDA graphs. Threads then take
            turns in all that they do on the GPU: a capture fails if another one so much as copies there meanwhile.
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
        """onnxruntime's session of the moment."""
        with self._lock:
            return self._current()

    def expect(self, tokens: int) -> None:
        """Before a step that reads so many tokens: packs the weights where it is time.

        Raises:
            GraphError: they cannot be packed, for the folder is not what it was.
        """
        with self._lock:
            if self.packed:
                return
            if self._left is None:
                self._left = UNPACKED_TOKENS
            elif tokens <= self._left:
                self._left -= tokens
            else:
                self._left = 0  # should packing fail, the next step tries it again
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
        # The mapped file goes before the packed copy comes, so that memory never holds both.
        self._inference = None
        self._bindings.clear()
        self._inference = self._open_graph(True)
        self.packed = True

    def _current(self) -> InferenceSession:
        if self._inference is None:
            raise GraphError("the graph could not be opened again to pack its weights; open the folder again")
        return self._inference


def _state(file: Path) -> tuple[int, ...] | None:
    """What changes with a file; None where it is gone."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
