"""Where the tensors are in a safetensors file: an 8-byte length, a JSON header of that length, then the numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path

from gpt2_runtime.errors import BundleError
from gpt2_runtime.folder.json_object import REMEDY, JsonObject, read_json

MOST_HEADER_BYTES = 4 * 2**20  # gpt2-xl's header has 0.1 MB
TYPES = {"F32": "float", "F16": "float16", "U8": "uint8", "I8": "int8", "I32": "int32", "I64": "int64"}


@dataclass(frozen=True, kw_only=True, order=True)
class StoredTensor:
    """The position of a tensor in its file.

    Attributes:
        start, stop: the range of its bytes.
        type: the element type by its ONNX name; "" for a type that these graphs never use.
    """

    start: int
    stop: int
    type: str


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """The tensors of a weights file, in file order.

    >>> with (folder / "model.safetensors").open("rb") as stream:
    ...     weights = WeightsFile.read(folder / "model.safetensors", stream)
    >>> weights.holds("float", weights.tensors[0].start, 4)
    True
    """

    tensors: Sequence[StoredTensor]

    @classmethod
    def read(cls, path: Path, stream: FileIO) -> WeightsFile:
        """Reads the header of the open file at `path`.

        Raises:
            BundleError: it is not a valid header, or a tensor is beyond the end of the file.
        """
        stream.seek(0, 2)
        size = stream.tell()
        stream.seek(0)
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(MOST_HEADER_BYTES, size - 8):
            raise BundleError(f"{path} is not a safetensors file: its header would have {length:,} bytes; {REMEDY}")
        try:
            text = stream.read(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(f"{path} has a header that is not UTF-8 at byte {error.start}; {REMEDY}") from error
        header = JsonObject(where=f"{path} header", fields=read_json(f"{path} header", text))
        tensors = sorted(_stored(header.object(name), 8 + length, size) for name in header if name != "__metadata__")
        for one, other in pairwise(tensors):
            if one.stop > other.start:
                raise BundleError(f"{path}: two tensors share the bytes from {other.start:,} on; {REMEDY}")
        return cls(tensors=tensors)

    def holds(self, type_: str, start: int, size: int) -> bool:
        """Whether these bytes belong to one tensor of this element type."""
        place = bisect_right(self.tensors, start, key=lambda tensor: tensor.start) - 1
        if place < 0:
            return False
        tensor = self.tensors[place]
        return tensor.type == type_ and start + size <= tensor.stop


def _stored(entry: JsonObject, begin: int, size: int) -> StoredTensor:
    places = entry.items("data_offsets")
    start, stop = (each if type(each) is int else -1 for each in places) if len(places) == 2 else (-1, -1)
    if not 0 <= start <= stop <= size - begin:
        entry.refuse("data_offsets", f"two offsets within the {size - begin:,} bytes after the header")
    return StoredTensor(start=begin + start, stop=begin + stop, type=TYPES.get(entry.text("dtype"), ""))
