"""`Checkpoint`: a config.json and tensors on disk, from a local folder or the Hugging Face Hub.

Tensors are memory-mapped, not read: a checkpoint of any size opens at once, and memory is touched only as tensors are
used. They have transformers' names and layout, whatever the source.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from gpt2_model import layouts, mingpt, nanogpt
from gpt2_model.errors import SourceError
from gpt2_model.hub import DOCUMENTS, fetch
from gpt2_model.text_file import read_json as read_json
from gpt2_model.text_file import refuse_broken_link, refuse_unreadable
from gpt2_model.weight_files import SAFETENSORS, WeightFiles, choose, open_weights

CONFIG, MODEL_ARGS = "config.json", "model_args"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose files are on this machine.

    Attributes:
        source: as the caller named it.
        folder: where the files are.
        revision: the commit on the Hub, None for a local folder.
        config: the parsed config.json.
        tensors: transformers' name of each tensor -> a function that maps it into memory, in transformers' layout.
        warnings: what was changed or left out.
    """

    source: str
    folder: Path
    revision: str | None
    config: Mapping[str, Any]
    tensors: Mapping[str, Callable[[], Tensor]] = field(repr=False)
    warnings: tuple[str, ...] = ()


def open_checkpoint(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    offline: bool = False,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Opens a checkpoint; one that is not a local folder is downloaded from the Hub.

    Args:
        source: a folder, or a repository on the Hub ("gpt2", "org/name").
        revision: branch, tag or commit on the Hub; refused for a folder.
        offline: use only the Hub's cache on this machine.
        allow_pickle: read pytorch_model.bin or nanoGPT's ckpt.pt if there are no safetensors, with torch's weights-only
            unpickler.

    Raises:
        SourceError: no such folder or repository, or no weights in a format that is read.
        WeightFileError: a file is damaged.
        ConfigError: config.json is not a JSON object.
        TensorError: some tensor names have a wrapper's prefix and others do not.
    """
    folder = Path(source)
    if not str(source):
        raise SourceError("the source is empty; name a folder, or a repository on the Hub")
    if folder.is_dir():
        if revision is not None:
            raise SourceError(f"revision is {revision!r}, but {folder} is a local folder; leave revision out")
    elif HUB_ID.fullmatch(str(source)) and not folder.exists():
        folder, revision = fetch(str(source), revision, offline=offline, allow_pickle=allow_pickle)
    else:
        raise SourceError(_no_folder(source))
    choice = choose(folder, _top_level(folder), allow_pickle=allow_pickle)
    for name in DOCUMENTS:
        refuse_broken_link(folder / name)
        if (folder / name).exists():
            refuse_unreadable(folder / name, (folder / name).stat())
    files = open_weights(folder, choice)
    config, warnings = _config(folder, files)
    tensors, more = layouts.as_transformers(files.tensors, config, folder, linear=MODEL_ARGS in files.beside)
    return Checkpoint(
        source=str(source),
        folder=folder,
        revision=revision,
        config=config,
        tensors=tensors,
        warnings=files.warnings + warnings + more,
    )


def _config(folder: Path, files: WeightFiles) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The config in transformers' fields: from config.json (transformers' or minGPT's), ckpt.pt, or both."""
    if MODEL_ARGS not in files.beside:
        document = read_json(folder / CONFIG)
        return mingpt.config(document, files.tensors) if mingpt.is_config(document) else document, ()
    document = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    return nanogpt.config(files.beside[MODEL_ARGS], document)


def _top_level(folder: Path) -> set[str]:
    try:
        return {path.name + "/" * path.is_dir() for path in folder.iterdir()}
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror}") from error


def _no_folder(source: str | PathLike[str]) -> str:
    """The message for a source that is neither a folder nor a repository's name."""
    path = Path(source)
    if not path.is_file():
        return f"{source} is neither a folder nor the name of a repository on the Hub"
    if path.suffix == ".gguf":
        return f"{path} is a GGUF file, llama.cpp's format; name the folder of the checkpoint it was made from"
    if path.suffix in (".safetensors", ".bin", ".pt", ".json"):
        return f"{path} is one file of a checkpoint; name its folder, {path.parent}"
    return f"{path} is a file; name a checkpoint's folder, with {CONFIG} and {SAFETENSORS}"
