"""Picks a checkpoint's weight files and maps each tensor from its file."""

import re
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpt2_model import pickle_file
from gpt2_model.errors import SourceError, WeightFileError
from gpt2_model.foreign import adapter_among, foreign_among
from gpt2_model.quoting import listed, name_shown, shown
from gpt2_model.text_file import LFS_POINTER, lfs_message, read_json, refuse_broken_link, refuse_irregular

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
NANOGPT, MINGPT = "ckpt.pt", "model.pt"
LONGEST_FILE_NAME = 255

Tensors = dict[str, Callable[[], Tensor]]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The weight file to read, or the index of several and the pattern of their names."""

    file: str
    shard: re.Pattern[str] | None = None


CHOICES = (
    Choice(file=SAFETENSORS),
    Choice(file=SAFETENSORS_INDEX, shard=re.compile(r"model-\d+-of-\d+\.safetensors")),
    Choice(file=PICKLE),
    Choice(file=PICKLE_INDEX, shard=re.compile(r"pytorch_model-\d+-of-\d+\.bin")),
    Choice(file=NANOGPT),
    Choice(file=MINGPT),
)


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """The contents of the weight files.

    Attributes:
        tensors: each tensor's name -> a function that maps it into memory.
        beside: what a pickle holds beside its state dict, such as nanoGPT's model_args.
        warnings: what was left out.
    """

    tensors: Tensors
    beside: Mapping[str, Any]
    warnings: tuple[str, ...]


def choose(source: object, names: Set[str], *, allow_pickle: bool) -> Choice:
    """Picks the weights to read from the names at a source's top level; folders end with a slash.

    Raises:
        SourceError: none can be read, only pickles that are not allowed, or only an adapter.
    """
    adapter = adapter_among(names)
    if adapter:
        raise SourceError(f"{source} cannot be read as it is; {adapter}")
    for choice in CHOICES:
        if not names & {choice.file, f"{choice.file}/"}:  # a folder of that name is refused on opening
            continue
        if not choice.file.startswith(SAFETENSORS) and not allow_pickle:
            raise SourceError(
                f"{source} has its weights only as a pickle, {choice.file}, which can run code when it is opened; "
                "allow it with allow_pickle (--allow-pickle) if you trust its author"
            )
        return choice
    raise SourceError(f"{source} has no {SAFETENSORS}, sharded or whole; {foreign_among(names)}")


def open_weights(folder: Path, choice: Choice) -> WeightFiles:
    """Maps every tensor of the chosen files.

    Raises:
        SourceError: a file is absent or not a file.
        WeightFileError: a file is damaged or contradicts its index.
    """
    path = folder / choice.file
    if choice.shard is None and not choice.file.startswith(SAFETENSORS):
        _refuse_no_file(path)
        pickled = pickle_file.read(path)
        return WeightFiles(tensors=pickled.tensors, beside=pickled.beside, warnings=pickled.warnings)
    return _open_all(folder, {choice.file: ()} if choice.shard is None else _shards(path))


def _shards(index: Path) -> dict[str, set[str]]:
    """File -> the tensors that the index lists for it."""
    suffix = ".safetensors" if index.name == SAFETENSORS_INDEX else ".bin"  # safetensors must not lead to a pickle
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightFileError(f"{index} has no weight_map; download it again")
    shards: dict[str, set[str]] = {}
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not _is_file_name(file) or not file.endswith(suffix):
            raise WeightFileError(
                f"{index} says that {name_shown(tensor)} is in {shown(file)}, which is not a {suffix} file beside it"
            )
        shards.setdefault(file, set()).add(tensor)
    absent = sorted(file for file in shards if not (index.parent / file).exists())
    if absent:
        raise WeightFileError(f"{index} names {listed(absent)}, which {index.parent} does not have; download it again")
    return shards


def _is_file_name(name: str) -> bool:
    return Path(name).name == name and name.isprintable() and len(name) <= LONGEST_FILE_NAME


def _open_all(folder: Path, files: Mapping[str, Collection[str]]) -> WeightFiles:
    tensors: Tensors = {}
    warnings: tuple[str, ...] = ()
    for name, promised in files.items():
        path = folder / name
        _refuse_no_file(path)
        if path.suffix == ".safetensors":
            opened = _open_safetensors(path)
        else:
            pickled = pickle_file.read(path)
            opened, warnings = pickled.tensors, warnings + pickled.warnings
        missing = sorted(set(promised) - opened.keys())
        if missing:
            raise WeightFileError(f"{path} lacks {listed(missing)}, which its index lists; download it again")
        twice = sorted(opened.keys() & tensors.keys())
        if twice:
            raise WeightFileError(f"{path} holds {listed(twice)}, which another file of {folder} holds too")
        tensors |= opened
    return WeightFiles(tensors=tensors, beside={}, warnings=warnings)


def _refuse_no_file(path: Path) -> None:
    """Raises SourceError for a pipe or a device, whose reading may never end, and for a Git LFS pointer."""
    refuse_broken_link(path)
    try:
        refuse_irregular(path, path.stat())
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    if start == LFS_POINTER.encode():
        raise SourceError(lfs_message(path))


def _open_safetensors(path: Path) -> Tensors:
    try:
        file: Any = safe_open(path, framework="pt")
        return {name: partial(_mapped, file, path, name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
    except (SafetensorError, ValueError) as error:
        raise WeightFileError(
            f"{path} ({path.stat().st_size} bytes) is not a whole safetensors file: {error}; download it again"
        ) from error
    except OSError as error:
        raise WeightFileError(f"{path} cannot be read: {error}") from error


def _mapped(file: Any, path: Path, name: str) -> Tensor:
    try:
        tensor: Tensor = file.get_tensor(name)
    except (SafetensorError, TypeError, AttributeError) as error:  # a dtype that this torch does not have
        raise WeightFileError(f"{path}: {name_shown(name)} cannot be read: {error}") from error
    return tensor
