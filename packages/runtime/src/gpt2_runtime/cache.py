"""The keys and values of the tokens read so far: a value that goes into a step and comes out of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from gpt2_runtime.errors import SettingError


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyValueCache(ABC):
    """What a session remembers of each row of a batch.

    Made by `Session.empty_cache` and by each step. It is used once: a step of the serving graph writes into the memory
    that all values of one cache share, and the value that went into it is refused from then on. Go on with the value
    that came out, or a shorter `rolled_back` of it; `copy` before a step gives two continuations of one text, and
    `selected` any number of them.

    Attributes:
        lengths: the tokens read of each row.
        capacity: the tokens that a row can have.
        owner: the onnxruntime session that it is for.

    >>> _, cache = session.step([[1, 2, 3], [4]], session.empty_cache(2))
    >>> cache.lengths, cache.rolled_back([1, 0]).lengths
    ((3, 1), (1, 0))
    """

    lengths: tuple[int, ...]
    capacity: int
    owner: object

    @property
    def batch_size(self) -> int:
        return len(self.lengths)

    def rolled_back(self, lengths: int | Sequence[int]) -> Self:
        """The cache as it was when the rows had the first `lengths` of their tokens.

        Args:
            lengths: one for each row, or one for all.

        Raises:
            SettingError: a length is negative or more than the row has.
        """
        wanted = (lengths,) * self.batch_size if isinstance(lengths, int | np.integer) else tuple(lengths)
        if len(wanted) != self.batch_size:
            raise SettingError(f"lengths are {len(wanted)}, the cache has {self.batch_size} rows; give one for each")
        for row, (length, has) in enumerate(zip(wanted, self.lengths, strict=True)):
            if not 0 <= length <= has:
                raise SettingError(f"length is {length}, row {row} of the cache holds {has}; roll back to 0 to {has}")
        return self._shortened(tuple(int(length) for length in wanted))

    def selected(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> Self:
        """The cache whose row i is this one's row `rows[i]`, with the same room.

        It uses this one up, as a step does; `copy` first where it is needed again.

        Args:
            rows: at least one, in any order; repeated, a row goes on in several ways.

        Raises:
            SettingError: a row that is not there.

        >>> _, cache = session.step([[1, 2, 3], [4]], session.empty_cache(2))
        >>> cache.selected([1, 0, 1]).lengths
        (1, 3, 1)
        """
        if not isinstance(rows, Sequence | np.ndarray) or not len(rows):
            raise SettingError(f"rows are {rows!r}, must be one or more of the cache's {self.batch_size}: [0, 0]")
        for row in rows:
            whole = isinstance(row, int | np.integer) and not isinstance(row, bool)
            if not whole or not 0 <= row < self.batch_size:
                has = f"the cache has {self.batch_size}"
                raise SettingError(f"row is {row!r}, {has}; select from 0 to {self.batch_size - 1}")
        return self._taken(tuple(int(row) for row in rows))

    @abstractmethod
    def copy(self) -> Self:
        """The same in memory of its own, so that both can be stepped."""

    @abstractmethod
    def _shortened(self, lengths: tuple[int, ...]) -> Self: ...

    @abstractmethod
    def _taken(self, rows: tuple[int, ...]) -> Self: ...
