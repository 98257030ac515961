"""The keys and values of the positions read so far: a value that goes into a step and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpt2_runtime.errors import SettingError

if TYPE_CHECKING:
    from onnxruntime import OrtValue


class KeyValue(NamedTuple):
    """One layer's keys and values, each [B, H, P, D], on the session's device."""

    key: OrtValue
    value: OrtValue


@dataclass(frozen=True, kw_only=True)
class KeyValueCache:
    """What a session remembers of `length` positions of `batch_size` rows.

    Made by `Session.empty_cache` and `Session.step`, never changed: stepping twice from the same cache gives two
    independent continuations of one prompt.

    >>> _, cache = session.step(np.array([[1, 2, 3]]), session.empty_cache())
    >>> cache.length, cache.rolled_back(1).length
    (3, 1)
    """

    batch_size: int
    length: int
    layers: tuple[KeyValue, ...]

    def rolled_back(self, length: int) -> KeyValueCache:
        """The cache as it was after its first `length` positions.

        The tensors of the portable graph end where the past ends, so this copies what is kept, through the host.

        Raises:
            SettingError: `length` is negative or more than is cached.
        """
        if not 0 <= length <= self.length:
            raise SettingError(f"length is {length}, the cache holds {self.length}; roll back to 0 to {self.length}")
        if length == self.length:
            return self
        layers = tuple(KeyValue(*(_cut(tensor, length) for tensor in layer)) for layer in self.layers)
        return replace(self, length=length, layers=layers)


def _cut(tensor: OrtValue, length: int) -> OrtValue:
    kept = np.ascontiguousarray(tensor.numpy()[:, :, :length])
    return type(tensor).ortvalue_from_numpy(kept, tensor.device_name())
