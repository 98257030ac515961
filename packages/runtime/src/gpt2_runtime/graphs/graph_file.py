"""A checked graph of a folder, ready for onnxruntime, with its weights copied into memory or mapped."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from gpt2_runtime.arguments import check_choice
from gpt2_runtime.errors import BundleError, GraphError, shown
from gpt2_runtime.folder.bundle import Bundle, SealedFile
from gpt2_runtime.folder.weights_file import WeightsFile
from gpt2_runtime.graphs.graph_contents import check_operators, check_sizes
from gpt2_runtime.graphs.graph_signature import Signature
from gpt2_runtime.graphs.onnx_file import MOST_GRAPH_BYTES, Initializer, OnnxFile
from gpt2_runtime.providers.provider import TensorMemory
from gpt2_runtime.providers.providers import load_onnxruntime

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

Load = Literal["copy", "map", "auto"]
"""Whether weights are copied into memory, mapped from their file, or mapped if onnxruntime can map that file."""

MAPS = Path("/proc/self/maps")

# Weights read only by these are packed, or folded into another constant, and not read from the file again.
PACKED = frozenset(("Cast:0", "Gemm:1", "MatMul:1", "com.microsoft::MatMulNBits:1"))

NUMBERS = {
    "float": np.float32, "float16": np.float16, "uint8": np.uint8, "int8": np.int8, "int32": np.int32,
    "int64": np.int64,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GraphFile:
    """A graph with only known operators, which matches config.json, and whose weights exist.

    Attributes:
        file: the graph's file.
        data: its bytes.
        weights: the weights files, by the names that the graph gives them.
        initializers: the tensors in those files, by name.
        layers: the number of layers.
        lasting: the tensors that are read from the file at every step, even if weights are packed.
        mapped: whether onnxruntime maps these files, its default, or gets their bytes.
        watched: whether it keeps reading the mapped files; on a GPU it does not.
    """

    file: SealedFile
    data: bytes
    weights: Mapping[str, SealedFile]
    initializers: Mapping[str, Initializer]
    layers: int
    lasting: frozenset[str]
    mapped: bool
    watched: bool

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        precision: str,
        kind: str,
        expected: Callable[[], Signature],
        *,
        load: Load,
        tensors: TensorMemory,
    ) -> GraphFile:
        """Reads and checks a graph of the folder.

        Args:
            bundle, precision, kind: which one.
            expected: returns the inputs and outputs that it must have; called once its number of layers is checked.
            load: see `Session.open`.
            tensors: where the provider keeps tensors. If not on the host, onnxruntime reads the weights itself and
                moves them while it opens.

        Raises:
            BundleError: the graph or its weights do not match the manifest or config.json.
            SettingError: `load` is not one of the three.
        """
        check_choice("load", load, get_args(Load))
        path = bundle.graph(precision, kind)
        name = bundle.graphs[precision][kind]
        file = bundle.files[name]
        data = file.read(MOST_GRAPH_BYTES)
        graph = OnnxFile.read(str(path), data)
        check_operators(str(path), graph, kind, precision)
        check_sizes(str(path), graph, kind, bundle)
        graph.signature.check(str(path), expected(), kind)
        stored = {key: tensor for key, tensor in graph.initializers.items() if tensor.location is not None}
        weights = _weights(bundle, name, {str(tensor.location) for tensor in stored.values()})
        for location, sealed in weights.items():
            _check_places(sealed, {key: each for key, each in stored.items() if each.location == location})
        elsewhere = next((each for each in weights.values() if not _beside(file, each)), None)
        mapped = not tensors.on_host or load == "map" or (load == "auto" and elsewhere is None)
        if mapped and elsewhere is not None:
            problem = f"{elsewhere.path} is a link to {elsewhere.path.resolve()}"
            remedy = "pass load='copy', or copy the folder with cp -rL" if tensors.on_host else "copy it with cp -rL"
            raise BundleError(f"{problem}, but onnxruntime maps weights only from the graph's folder; {remedy}")
        lasting = frozenset(stored if elsewhere else (key for key in stored if graph.readers[key] - PACKED))
        return cls(
            file=file,
            data=data,
            weights=weights,
            initializers=stored,
            layers=bundle.architecture.n_layer,
            lasting=lasting,
            mapped=mapped,
            watched=mapped and tensors.on_host,
        )

    def check_unchanged(self) -> None:
        """Raises BundleError if mapped weights have changed: reading them could crash the process."""
        if self.watched:
            for file in self.weights.values():
                file.check_unchanged()

    def attempts(self, packed: bool) -> list[frozenset[str]]:
        """The weights to pass to onnxruntime, one attempt after another, until no file is mapped that must not be.

        It copies the weights that it is passed. Weights that it will pack can be left to it to map: after packing it
        closes the file, so that memory holds one form of the weights instead of two. If it does not, or if the system
        does not show whether it does, all weights are passed.
        """
        if self.mapped:
            return [frozenset()]
        everything = frozenset(self.initializers)
        some = packed and self.lasting < everything and self._shows_mappings()
        return [self.lasting, everything] if some else [everything]

    def is_held(self) -> bool:
        """Whether the weights ended up as they must be after an attempt: mapped, or not mapped at all."""
        return self.mapped or not any(map(_is_mapped, self.weights.values()))

    def _shows_mappings(self) -> bool:
        """Whether the system shows that a weights file is mapped; tested with each file."""
        shown = True
        for file in self.weights.values():
            with _bytes(file):
                shown = shown and _is_mapped(file)
        return shown

    @contextmanager
    def model(self, options: SessionOptions, passed: frozenset[str]) -> Iterator[str | bytes]:
        """The graph's path or bytes, for onnxruntime to open within the context with these options.

        Args:
            options: the weights are added to them.
            passed: the names of the weights to pass.

        Raises:
            BundleError: a file has changed since the folder was opened, or changes meanwhile.
        """
        files = (self.file, *self.weights.values())
        for file in files:
            file.check_unchanged()
        with ExitStack() as stack:
            arrays = {location: stack.enter_context(_bytes(file)) for location, file in self.weights.items() if passed}
            make = load_onnxruntime().OrtValue.ortvalue_from_numpy
            tensors = {name: self.initializers[name] for name in sorted(passed)}
            values = {name: make(_array(arrays[str(each.location)], each)) for name, each in tensors.items()}
            if values:
                options.add_external_initializers(list(values), list(values.values()))
            yield self.data if len(passed) == len(self.initializers) else str(self.file.path)
            values.clear()
        for file in files:
            file.check_unchanged()


def _weights(bundle: Bundle, graph: str, locations: set[str]) -> Mapping[str, SealedFile]:
    """The weights files that a graph names, by its names; each must be listed in the manifest's weights."""
    listed, files = set(bundle.weights.values()), {}
    for location in sorted(locations):
        name = str(PurePosixPath(graph).parent / location)
        if name not in listed:
            problem = (
                f"{bundle.folder / graph} has weights in {shown(location)}, which is not among the manifest's weights"
            )
            raise GraphError(f"{problem}; export the folder again")
        files[location] = bundle.files[name]
    return files


def _check_places(file: SealedFile, tensors: Mapping[str, Initializer]) -> None:
    with file.open() as stream:
        weights = WeightsFile.read(file.path, stream)
    for name, tensor in tensors.items():
        if not weights.holds(tensor.type, tensor.offset, tensor.bytes):
            place = f"{tensor.bytes:,} bytes of {tensor.type} at {tensor.offset:,}"
            problem = f"{file.path} has no tensor with {place}, where the graph has {shown(name)}"
            raise GraphError(f"{problem}; the folder is damaged or was edited; export it again")


def _beside(graph: SealedFile, weights: SealedFile) -> bool:
    """Whether onnxruntime can map the file: it must be in the graph's folder, before or after following links."""
    folders = graph.path.parent.resolve(), graph.path.resolve().parent
    return any(weights.path.resolve().is_relative_to(folder) for folder in folders)


def _is_mapped(file: SealedFile) -> bool:
    """Whether this process maps the file, as far as the system shows."""
    try:
        lines = MAPS.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return False
    inode, path = str(file.state.inode), str(file.path.resolve())
    columns = (line.split(maxsplit=5) for line in lines)  # in an overlay the inode can be the lower layer's
    return any(inode == each[4] or each[5:] == [path] for each in columns)


@contextmanager
def _bytes(file: SealedFile) -> Iterator[npt.NDArray[np.uint8]]:
    """The bytes of a file, mapped while it is copied, so that they take no memory beside the copy."""
    with file.open() as stream:
        try:
            pages = mmap.mmap(stream.fileno(), file.bytes, access=mmap.ACCESS_COPY)
        except (OSError, ValueError, MemoryError) as error:
            raise BundleError(f"{file.path} cannot be read: {error}") from error
        yield np.frombuffer(pages, np.uint8)


def _array(data: npt.NDArray[np.uint8], tensor: Initializer) -> npt.NDArray[np.generic]:
    flat: npt.NDArray[np.generic] = data[tensor.offset : tensor.offset + tensor.bytes].view(NUMBERS[tensor.type])
    return flat.reshape(tensor.shape)
