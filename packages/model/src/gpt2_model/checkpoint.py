"""`Checkpoint`: a config.json and tensors on disk, from a local folder or the Hugging Face hub.

The only file that opens the network. Tensors are mapped from their file, not read: a checkpoint of any size opens at
once, and memory is touched only as tensors are used.
"""

import hashlib
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpt2_model.errors import CheckpointError, ConfigError, SourceError, WeightFileError

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

# What a checkpoint may hold beside its weights, and what is fetched from the hub.
DOCUMENTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)

# Weights in formats that are not read, and what to do about each.
FOREIGN = {
    "tf_model.h5": "TensorFlow weights",
    "flax_model.msgpack": "Flax weights",
    "model.ckpt.index": "OpenAI's own TensorFlow checkpoint; its converted weights are the hub's openai-community/gpt2",
    "hparams.json": "OpenAI's own TensorFlow checkpoint; its converted weights are the hub's openai-community/gpt2",
    "adapter_config.json": "a LoRA adapter; merge it into its base model first",
}

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose files are on this machine.

    Attributes:
        source: what the caller asked for.
        folder: where the files are.
        revision: the commit on the hub, None for a local folder.
        config: the parsed config.json.
        tensors: each tensor's name in the file, and how to map it into memory.
    """

    source: str
    folder: Path
    revision: str | None
    config: Mapping[str, Any]
    tensors: Mapping[str, Callable[[], Tensor]] = field(repr=False)


def open_checkpoint(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    offline: bool = False,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Finds a checkpoint, fetching it from the hub where `source` is no local folder.

    Args:
        source: a folder, or a repository on the hub ("gpt2", "org/name").
        revision: branch, tag or commit on the hub; refused for a folder.
        offline: look for a hub checkpoint only in the hub's cache on this machine.
        allow_pickle: read pytorch_model.bin where there are no safetensors (with torch's weights-only unpickler).

    Raises:
        SourceError: there is no such folder or repository, or no weights of a kind that is read here.
        WeightFileError: a file is damaged.
        ConfigError: config.json is no JSON object.
    """
    folder = Path(source)
    if not str(source):
        raise SourceError("the source is empty; name a folder, or a repository on the hub")
    if folder.is_dir():
        if revision is not None:
            raise SourceError(f"revision {revision!r} was asked for, but {folder} is a local folder; leave it out")
    elif HUB_ID.fullmatch(str(source)) and not folder.exists():
        folder, revision = _fetch(str(source), revision, offline=offline, allow_pickle=allow_pickle)
    else:
        raise SourceError(f"{source} is neither a folder nor the name of a repository on the hub")
    files = _weight_files(folder, allow_pickle)
    config = read_json(folder / "config.json")
    return Checkpoint(
        source=str(source),
        folder=folder,
        revision=revision,
        config=config,
        tensors=_open_weights(folder, files),
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        SourceError: there is no such file, or it cannot be read.
        ConfigError: it holds something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{path.parent} has no {path.name}; a checkpoint is a folder with one") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds a JSON {type(document).__name__}; it must be an object")
    return document


def _weight_files(folder: Path, allow_pickle: bool) -> dict[str, tuple[str, ...] | None]:
    """File -> the tensors that an index promises to be in it, None where there is no index."""
    for single, index in ((SAFETENSORS, SAFETENSORS_INDEX), (PICKLE, PICKLE_INDEX)):
        if not (folder / single).exists() and not (folder / index).exists():
            continue
        if single == PICKLE and not allow_pickle:
            raise SourceError(
                f"{folder} has its weights only as a pickle, {PICKLE}, which can run code when it is opened; "
                "allow it with allow_pickle (--allow-pickle) if you trust its author"
            )
        if (folder / single).exists():
            return {single: None}
        return _shards(folder / index)
    raise SourceError(
        f"{folder} has no {SAFETENSORS}, sharded or whole; {_foreign({path.name for path in folder.iterdir()})}"
    )


def _foreign(names: set[str]) -> str:
    """What a folder without weights that are read here has instead."""
    found = {what: name for name, what in reversed(FOREIGN.items()) if name in names}
    return "; ".join(f"it has {name}: {what}" for what, name in found.items()) or "is it a checkpoint's folder?"


def _shards(index: Path) -> dict[str, tuple[str, ...] | None]:
    suffix = ".safetensors" if index.name == SAFETENSORS_INDEX else ".bin"  # the one must not lead to the other
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightFileError(f"{index} has no weight_map; download it again")
    shards: dict[str, tuple[str, ...] | None] = {}
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(suffix):
            raise WeightFileError(f"{index} says that {tensor} is in {file!r}, which is no {suffix} file beside it")
        shards[file] = (*(shards.get(file) or ()), tensor)
    absent = sorted(file for file in shards if not (index.parent / file).exists())
    if absent:
        raise WeightFileError(
            f"{index} names {', '.join(absent)}, which {index.parent} does not have; download it again"
        )
    return shards


def _open_weights(folder: Path, files: Mapping[str, tuple[str, ...] | None]) -> dict[str, Callable[[], Tensor]]:
    tensors: dict[str, Callable[[], Tensor]] = {}
    for name, promised in files.items():
        path = folder / name
        found = _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)
        missing = sorted(set(promised or ()) - set(found))
        if missing:
            raise WeightFileError(f"{path} lacks {', '.join(missing)}, which its index promises; download it again")
        twice = sorted(found.keys() & tensors.keys())
        if twice:
            raise WeightFileError(f"{path} holds {', '.join(twice)}, which another file of {folder} holds too")
        tensors |= found
    return tensors


def _open_safetensors(path: Path) -> dict[str, Callable[[], Tensor]]:
    try:
        file: Any = safe_open(path, framework="pt")
        return {name: partial(_mapped, file, path, name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, ValueError) as error:
        raise WeightFileError(
            f"{path} ({path.stat().st_size} bytes) is not a whole safetensors file: {error}; download it again"
        ) from error
    except OSError as error:
        raise WeightFileError(f"{path} cannot be read: {error}") from error


def _mapped(file: Any, path: Path, name: str) -> Tensor:
    try:
        tensor: Tensor = file.get_tensor(name)
    except (SafetensorError, TypeError, AttributeError) as error:  # types of number that this torch does not have
        raise WeightFileError(f"{path}: {name} cannot be read: {error}") from error
    return tensor


def _open_pickle(path: Path) -> dict[str, Callable[[], Tensor]]:
    try:
        # Only the zip format can be mapped; the 2019 files are of the older one.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on unsafe loading is the opposite of ours
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        raise WeightFileError(
            f"{path} cannot be loaded as weights alone: it is damaged, or holds more than tensors, which "
            "could run code; convert it to safetensors where that does no harm"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightFileError(f"{path} holds something else than a table of tensors")
    odd = [f"{name} ({form})" for name, form in ((name, _form(value)) for name, value in content.items()) if form]
    if odd:
        raise WeightFileError(
            f"{path} holds {', '.join(odd)}, only dense tensors with numbers are read; save it with those (to_dense)"
        )
    return {str(name): partial(Tensor.detach, tensor) for name, tensor in content.items()}


def _form(tensor: Tensor) -> str:
    """What a tensor is that is no plain array of numbers; nothing where it is one.

    >>> _form(torch.eye(2).to_sparse()), _form(torch.eye(2))
    ('sparse_coo', '')
    """
    if tensor.is_meta:
        return "meta"
    if tensor.is_nested:  # of which some say that they are strided
        return "nested"
    return "" if tensor.layout is torch.strided else str(tensor.layout).removeprefix("torch.")


def _fetch(source: str, revision: str | None, *, offline: bool, allow_pickle: bool) -> tuple[Path, str]:
    """Brings the files that are needed, and no others, into the hub's cache; returns their folder and their commit."""
    from huggingface_hub import snapshot_download  # imported here: half a second that a local folder need not wait
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    at = f" at revision {revision!r}" if revision else ""
    try:
        if offline:
            # The library asks whether all that matches is there, so name what would have been fetched.
            wanted = [*DOCUMENTS, SAFETENSORS, SAFETENSORS_INDEX, "model-*-of-*.safetensors"]
            folder = Path(snapshot_download(source, revision=revision, allow_patterns=wanted, local_files_only=True))
        else:
            commit, hashes = _wanted(source, revision, allow_pickle)
            with _bars() as bars:
                # By the name that was asked for, so that the cache learns it and `offline` finds it again.
                fetched = snapshot_download(source, revision=revision, allow_patterns=[*hashes], tqdm_class=bars)
            folder = Path(fetched)
            if folder.name != commit:
                raise SourceError(f"{source}{at} moved from {commit} to {folder.name} meanwhile; run it again")
            _refuse_damaged(source, folder, hashes)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        remedy = "run once without offline" if offline else "check the connection, or name a local folder"
        raise SourceError(
            f"{source}{at} is neither a folder nor in the hub's cache, nor can it be fetched; {remedy}"
        ) from error
    except HfHubHTTPError as error:
        raise SourceError(_refusal(error, source, at)) from error
    except CheckpointError:
        raise
    except Exception as error:  # whatever the library's transport raises, under names that change with it
        raise SourceError(
            f"there is no folder {source}, and as a repository{at} it cannot be fetched from the hub: {error}; "
            "check the name, the connection and the disk, or take what the hub's cache has with offline (--offline)"
        ) from error
    return folder, folder.name  # the cache keeps each commit in a folder of its name


def _wanted(source: str, revision: str | None, allow_pickle: bool) -> tuple[str, dict[str, str | None]]:
    """The commit that the revision is now, and the files to fetch, the documents and one set of weights.

    Of each file the hash that the hub tells of it: the sha256 of a large one, git's own of a small one.
    """
    from huggingface_hub import HfApi

    info = HfApi().model_info(source, revision=revision, files_metadata=True)
    hashes = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings or ()}
    names = set(hashes)
    if SAFETENSORS in names or SAFETENSORS_INDEX in names:
        single, index, shard = SAFETENSORS, SAFETENSORS_INDEX, re.compile(r"model-\d+-of-\d+\.safetensors")
    elif allow_pickle or not names & {PICKLE, PICKLE_INDEX}:
        single, index, shard = PICKLE, PICKLE_INDEX, re.compile(r"pytorch_model-\d+-of-\d+\.bin")
    else:
        raise SourceError(
            f"{source} has its weights only as a pickle, {PICKLE}, which can run code when it is opened; "
            "allow it with allow_pickle (--allow-pickle) if you trust its author"
        )
    weights = {single} if single in names else {index, *(name for name in names if shard.fullmatch(name))}
    if not weights & names:
        raise SourceError(f"{source} has no {SAFETENSORS}, sharded or whole; {_foreign(names)}")
    return str(info.sha), {name: hashes[name] for name in sorted(names & (weights | set(DOCUMENTS)))}


@contextmanager
def _bars() -> Iterator[type]:
    """The library's progress bars: in a terminal only, and ended with the block, not whenever they are collected."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # exported, but not in mypy's sense

    drawn = []

    class Bar(tqdm):
        def __init__(self, *args: Any, disable: bool | None = None, **options: Any) -> None:
            super().__init__(*args, disable=disable, **options)  # type: ignore[no-untyped-call]
            drawn.append(self)

    try:
        yield Bar
    finally:
        for bar in drawn:
            bar.close()


def _refuse_damaged(source: str, folder: Path, hashes: Mapping[str, str | None]) -> None:
    """Raises WeightFileError where a file is not the one that the hub describes; the library compares sizes alone."""
    damaged = [name for name, expected in hashes.items() if expected and _hash(folder / name, expected) != expected]
    for name in damaged:
        path = folder / name
        while path.is_symlink():  # the cache's snapshots are links to its blobs
            target = path.parent / path.readlink()
            path.unlink()
            path = target
        path.unlink(missing_ok=True)
    if damaged:
        raise WeightFileError(
            f"{source}: {', '.join(damaged)} came with another hash than the hub tells; removed from the hub's cache, "
            "run it again to fetch it anew"
        )


def _hash(path: Path, like: str) -> str:
    """A file's sha256, or its name as a blob of git where `like` is as short as those are."""
    kind = "sha256" if len(like) == 64 else "sha1"
    with path.open("rb") as file:
        head = b"" if kind == "sha256" else b"blob %d\0" % path.stat().st_size
        return hashlib.file_digest(file, lambda: hashlib.new(kind, head, usedforsecurity=False)).hexdigest()


def _refusal(error: Any, source: str, at: str) -> str:
    """What an answer of the hub means for the user, and what to do."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    log_in = "set HF_TOKEN or run `hf auth login`"
    if isinstance(error, GatedRepoError):
        return f"the hub shows {source} only to those whom its authors let in; ask them on its page, then {log_in}"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no folder {source}, and no such repository on the hub, or none that it shows you; "
            f"check the name; for a private one {log_in}"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{source} has no revision{at.removeprefix(' at revision')} on the hub; name a branch, a tag or a commit"
    if error.response.status_code == 401:
        return f"the hub does not accept your token for {source}{at}; {log_in}"
    reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
    return f"the hub refuses {source}{at}: {reason}; try again later, or look at the repository's page"
