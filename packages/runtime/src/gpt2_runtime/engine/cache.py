"""The keys and values of the tokens read so far: a value that goes into a step and comes out of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeGuard

import numpy as np
import numpy.typing as npt

from gpt2_runtime.arguments import invalid, is_integer, is_list
from gpt2_runtime.errors import ContextFullError, SettingError
from gpt2_runtime.folder.sharing import Local, Shared

MOST_ROWS = 1024  # of a cache; step more rows in turns

Layout = tuple[tuple[int, ...], np.dtype[Any]]
"""(L, 2, H, D) and the type of the numbers: layers, keys and values, heads, head size."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot(Shared, Local):
    """The keys and values of the first tokens of one row, copied and read-only.

    Made by `KeyValueCache.snapshot`.

    Attributes:
        owner: the onnxruntime session that it belongs to.
        array: [L, 2, H, length, D].
    """

    remedy = "send the token ids, and read them there"

    owner: object
    array: npt.NDArray[np.floating]

    def __post_init__(self) -> None:
        self.array.flags.writeable = False

    @property
    def length(self) -> int:
        """The number of tokens."""
        return int(self.array.shape[3])

    @property
    def nbytes(self) -> int:
        """Its memory in bytes."""
        return self.array.nbytes

    @property
    def layout(self) -> Layout:
        """The layout of its keys and values."""
        return self.array.shape[:3] + self.array.shape[4:], self.array.dtype


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyValueCache(Local, ABC):
    """The keys and values of each row of a batch.

    Made by `Session.empty_cache` and by each step. Each value is used once: a step of the serving graph writes into
    memory that all values of one cache share, and the value passed to it is refused from then on. Continue with the
    value that it returns, or a shorter `crop` of it. `copy` before a step gives two continuations of one text,
    `reorder` any number. A `snapshot` of a row outlives the cache; `restore` puts it into another one.

    Attributes:
        lengths: the number of tokens read in each row.
        capacity: the most tokens per row.
        owner: the onnxruntime session that it belongs to.

    >>> _, cache = session.step([[1, 2, 3], [4]], session.empty_cache(2))
    >>> cache.lengths, cache.crop([1, 0]).lengths
    ((3, 1), (1, 0))
    """

    remedy = "send the token ids, and read them there"

    lengths: tuple[int, ...]
    capacity: int
    owner: object

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: object) -> Self:
        return self.copy()

    @property
    def batch_size(self) -> int:
        return len(self.lengths)

    def crop(self, lengths: int | Sequence[int]) -> Self:
        """The cache with only the first `lengths` tokens of the rows.

        Args:
            lengths: one per row, or one for all.

        Raises:
            SettingError: a length is negative or more than the row has.
        """
        if not is_list(lengths) and not isinstance(lengths, int | np.integer):
            raise invalid("lengths", lengths, "must be an integer, or one for each row: [3, 0]")
        wanted = (lengths,) * self.batch_size if isinstance(lengths, int | np.integer) else tuple(lengths)
        if len(wanted) != self.batch_size:
            problem = f"lengths are {len(wanted)}, the cache has {self.batch_size} rows; give one for each"
            raise SettingError(problem, parameter="lengths", value=lengths)
        for row, (length, has) in enumerate(zip(wanted, self.lengths, strict=True)):
            _check_length(length, has, f"row {row} of the cache holds", "roll back to")
        return self._shortened(tuple(int(length) for length in wanted))

    def reorder(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> Self:
        """The cache whose row i is this cache's row `rows[i]`, with the same capacity.

        Uses up this cache, as a step does; `copy` it first to keep it.

        Args:
            rows: at least one, in any order; repeat a row to continue it in several ways.

        Raises:
            SettingError: a row does not exist.

        >>> _, cache = session.step([[1, 2, 3], [4]], session.empty_cache(2))
        >>> cache.reorder([1, 0, 1]).lengths
        (1, 3, 1)
        """
        if not is_list(rows) or not len(rows):
            raise invalid("rows", rows, f"must be one or more of the cache's {self.batch_size}: [0, 0]")
        for row in rows:
            self._check_row(row, "select")
        return self._selected(tuple(int(row) for row in rows))

    def snapshot(self, row: int, length: int) -> Snapshot:
        """A copy of the keys and values of the first `length` tokens of a row; this cache stays usable.

        Raises:
            SettingError: the row does not exist, or has fewer tokens.

        >>> _, cache = session.step([[1, 2, 3], [4]], session.empty_cache(2))
        >>> cache.snapshot(0, 2).length
        2
        """
        self._check_row(row, "take")
        _check_length(length, self.lengths[row], f"row {row} of the cache holds", "take")
        return Snapshot(owner=self.owner, array=self._read(int(row), int(length)))

    def restore(self, row: int, snapshot: Snapshot, length: int | None = None) -> Self:
        """The cache with the contents of one row replaced by the first `length` tokens of a snapshot.

        Uses up this cache, as a step does; the other rows are unchanged.

        Args:
            row: the row to replace.
            snapshot: from any cache of the same session.
            length: by default all its tokens.

        Raises:
            SettingError: the row does not exist, the snapshot has another session or layout, or fewer tokens. The
                portable graph's rows must have equal lengths, before and after.
            ContextFullError: the cache does not have room for it.

        >>> _, cache = session.step([[1, 2, 3], [4]], session.empty_cache(2))
        >>> cache.restore(1, cache.snapshot(0, 3), 2).lengths
        (3, 2)
        """
        self._check_row(row, "give to")
        if not isinstance(snapshot, Snapshot):
            problem = f"snapshot is {type(snapshot).__name__}, must come from the snapshot method of a cache"
            raise SettingError(problem, parameter="snapshot", value=snapshot)
        if snapshot.owner is not self.owner:
            problem = "snapshot belongs to another session; take it from a cache of this one"
            raise SettingError(problem, parameter="snapshot", value=snapshot)
        if snapshot.layout != self.layout:
            problem = "snapshot is {1} of shape {0}, the cache {3} of shape {2}".format(*snapshot.layout, *self.layout)
            raise SettingError(f"{problem}; take it from a cache of this session", parameter="snapshot", value=snapshot)
        length = snapshot.length if length is None else length
        _check_length(length, snapshot.length, "the snapshot holds", "give")
        if length > self.capacity:
            problem = f"row {row} would get {length} tokens, the cache has room for {self.capacity}"
            raise ContextFullError(f"{problem}; restore fewer or make it larger")
        return self._written(int(row), snapshot.array[:, :, :, :length])

    def _check_row(self, row: object, verb: str) -> None:
        if not _is_whole(row) or not 0 <= row < self.batch_size:
            raise invalid("row", row, f"the cache has {self.batch_size}", f"{verb} from 0 to {self.batch_size - 1}")

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """The layout of its keys and values."""

    @abstractmethod
    def copy(self) -> Self:
        """A copy in separate memory, so that both can be stepped."""

    @abstractmethod
    def _shortened(self, lengths: tuple[int, ...]) -> Self: ...

    @abstractmethod
    def _selected(self, rows: tuple[int, ...]) -> Self: ...

    @abstractmethod
    def _read(self, row: int, length: int) -> npt.NDArray[np.floating]:
        """[L, 2, H, length, D], a copy."""

    @abstractmethod
    def _written(self, row: int, text: npt.NDArray[np.floating]) -> Self:
        """The cache with `text`, [L, 2, H, length, D], as a row."""


def _check_length(length: object, most: int, holder: str, verb: str) -> None:
    if not _is_whole(length) or not 0 <= length <= most:
        raise invalid("length", length, f"{holder} {most}", f"{verb} 0 to {most}")


def _is_whole(value: object) -> TypeGuard[int | np.integer]:
    return is_integer(value) or isinstance(value, np.integer)
