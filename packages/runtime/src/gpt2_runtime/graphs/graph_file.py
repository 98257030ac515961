"""A graph of a folder, checked, on its way into onnxruntime: with its weights held in memory, or mapped."""

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
"""Whether weights are held in memory, mapped from their file, or mapped where onnxruntime maps such a file."""

MAPS = Path("/proc/self/maps")

# Weights that only these read are packed, or folded into another constant, and not read again as they lie.
PACKED = frozenset(("Cast:0", "Gemm:1", "MatMul:1", "com.microsoft::MatMulNBits:1"))

NUMBERS = {
    "float": np.float32, "float16": np.float16, "uint8": np.uint8, "int8": np.int8, "int32": np.int32,
    "int64": np.int64,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GraphFile:
    """A graph that consists of what it may, agrees with config.json, and finds its weights.

    Attributes:
        file: of the graph.
        data: its bytes.
        weights: the files that its weights are in, by the names that the graph has for them.
        initializers: the tensors in those files, by name.
        layers: of the network.
        lasting: those that are read where they lie, packed or not.
        mapped: whether onnxruntime maps these files, as it does by itself, or is given their bytes.
        watched: whether it goes on reading what it maps; on a GPU it does not.
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
            expected: the inputs and outputs that it must have; called once its layers are known to be config.json's.
            load: see `Session.open`.
            tensors: where the provider's live. If not on the host, weights are moved while it opens: onnxruntime reads
                them itself.

        Raises:
            BundleError: it or its weights are not what the manifest and config.json say.
            SettingError: `load` is none of the three.
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
            raise BundleError(f"{problem}, and onnxruntime maps weights only beside the graph; {remedy}")
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
        """Refuses mapped weights that are not what they were, a BundleError: to read them could end the process."""
        if self.watched:
            for file in self.weights.values():
                file.check_unchanged()

    def attempts(self, packed: bool) -> list[frozenset[str]]:
        """Which weights onnxruntime is given, one attempt after the other, until none is mapped that must not be.

        It copies what it is given. To be packed, what it maps does as well: it lets the file go then, and memory holds
        one form of the weights and not two. Where it does not, or where that cannot be seen, it is given all.
        """
        if self.mapped:
            return [frozenset()]
        everything = frozenset(self.initializers)
        some = packed and self.lasting < everything and self._shows_mappings()
        return [self.lasting, everything] if some else [everything]

    def is_held(self) -> bool:
        """Whether an attempt has left the weights as they must be: mapped, or not mapped at all."""
        return self.mapped or not any(map(_is_mapped, self.weights.values()))

    def _shows_mappings(self) -> bool:
        """Whether the system shows it where a file of the weights is mapped: seen for each, not believed."""
        shown = True
        for file in self.weights.values():
            with _bytes(file):
                shown = shown and _is_mapped(file)
        return shown

    @contextmanager
    def model(self, options: SessionOptions, given: frozenset[str]) -> Iterator[str | bytes]:
        """What onnxruntime opens inside, with these options: the path of the graph, or the graph.

        Args:
            options: which take up the weights that are given.
            given: the names of these.

        Raises:
            BundleError: a file has changed since the folder was opened, or changes inside.
        """
        files = (self.file, *self.weights.values())
        for file in files:
            file.check_unchanged()
        with ExitStack() as stack:
            arrays = {location: stack.enter_context(_bytes(file)) for location, file in self.weights.items() if given}
            make = load_onnxruntime().OrtValue.ortvalue_from_numpy
            tensors = {name: self.initializers[name] for name in sorted(given)}
            values = {name: make(_array(arrays[str(each.location)], each)) for name, each in tensors.items()}
            if values:
                options.add_external_initializers(list(values), list(values.values()))
            yield self.data if len(given) == len(self.initializers) else str(self.file.path)
            values.clear()
        for file in files:
            file.check_unchanged()


def _weights(bundle: Bundle, graph: str, locations: set[str]) -> Mapping[str, SealedFile]:
    """The files that a graph names, which must be weights of the manifest; by the graph's names."""
    listed, files = set(bundle.weights.values()), {}
    for location in sorted(locations):
        name = str(PurePosixPath(graph).parent / location)
        if name not in listed:
            problem = (
                f"{bundle.folder / graph} has weights in {shown(location)}, which the manifest's weights do not list"
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
    """Whether onnxruntime maps such a file: it must be in the graph's folder, before or after links are followed."""
    folders = graph.path.parent.resolve(), graph.path.resolve().parent
    return any(weights.path.resolve().is_relative_to(folder) for folder in folders)


def _is_mapped(file: SealedFile) -> bool:
    """Whether this process maps the file, as far as the system says."""
    try:
        lines = MAPS.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return False
    inode, path = str(file.state.inode), str(file.path.resolve())
    columns = (line.split(maxsplit=5) for line in lines)  # in an overlay the inode can be that of the layer below
    return any(inode == each[4] or each[5:] == [path] for each in columns)


@contextmanager
def _bytes(file: SealedFile) -> Iterator[npt.NDArray[np.uint8]]:
    """The bytes of a file while it is copied, as they are on disk: they take no memory that the copy needs."""
    with file.open() as stream:
        try:
            pages = mmap.mmap(stream.fileno(), file.bytes, access=mmap.ACCESS_COPY)
        except (OSError, ValueError, MemoryError) as error:
            raise BundleError(f"{file.path} cannot be read: {error}") from error
        yield np.frombuffer(pages, np.uint8)


def _array(data: npt.NDArray[np.uint8], tensor: Initializer) -> npt.NDArray[np.generic]:
    found: npt.NDArray[np.generic] = data[tensor.offset : tensor.offset + tensor.bytes].view(NUMBERS[tensor.type])
    return found.reshape(tensor.shape)
