"""The Hugging Face hub: a repository's files, brought into the cache of huggingface_hub and held to their hashes.

The only file that opens the network.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt2_model.errors import CheckpointError, SourceError, WeightFileError
from gpt2_model.weight_files import SAFETENSORS, SAFETENSORS_INDEX, choose

# What a checkpoint may hold beside its weights, and what is fetched of it.
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


def fetch(source: str, revision: str | None, *, offline: bool, allow_pickle: bool) -> tuple[Path, str]:
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
    top_level = {name.partition("/")[0] + "/" * ("/" in name) for name in hashes}
    chosen = choose(source, top_level, allow_pickle=allow_pickle)
    weights = {chosen.file, *(name for name in hashes if chosen.shard and chosen.shard.fullmatch(name))}
    return str(info.sha), {name: hashes[name] for name in sorted(weights | (hashes.keys() & set(DOCUMENTS)))}


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
            "run it again to download it"
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
