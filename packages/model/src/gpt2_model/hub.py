"""Downloads a repository's files from the Hugging Face Hub into huggingface_hub's cache and checks their hashes.

The only module that uses the network.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt2_model.errors import CheckpointError, SourceError, WeightFileError
from gpt2_model.weight_files import SAFETENSORS, SAFETENSORS_INDEX, choose

# The files beside the weights that are downloaded.
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
    """Downloads the files that are needed into the Hub's cache; returns their folder and commit."""
    from huggingface_hub import snapshot_download  # imported here: half a second saved for local folders
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    at = f" at revision {revision!r}" if revision else ""
    try:
        if offline:
            # The library checks that every match is cached, so list what would have been downloaded.
            patterns = [*DOCUMENTS, SAFETENSORS, SAFETENSORS_INDEX, "model-*-of-*.safetensors"]
            folder = Path(snapshot_download(source, revision=revision, allow_patterns=patterns, local_files_only=True))
        else:
            commit, hashes = _files_to_download(source, revision, allow_pickle)
            with _bars() as bars:
                # By the revision's given name, so that the cache records it for `offline`.
                fetched = snapshot_download(source, revision=revision, allow_patterns=[*hashes], tqdm_class=bars)
            folder = Path(fetched)
            if folder.name != commit:
                raise SourceError(
                    f"{source}{at} changed from {commit} to {folder.name} during the download; run it again"
                )
            _refuse_damaged(source, folder, hashes)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        remedy = "run once without offline" if offline else "check the connection, or name a local folder"
        raise SourceError(
            f"{source}{at} is not a folder, is not in the Hub's cache and cannot be downloaded; {remedy}"
        ) from error
    except HfHubHTTPError as error:
        raise SourceError(_refusal(error, source, at)) from error
    except CheckpointError:
        raise
    except Exception as error:  # the library's transport raises many kinds
        raise SourceError(
            f"there is no folder {source}, and the repository{at} cannot be downloaded from the Hub: {error}; "
            "check the name, the connection and the disk, or use the Hub's cache with offline (--offline)"
        ) from error
    return folder, folder.name  # the cache names a folder after each commit


def _files_to_download(source: str, revision: str | None, allow_pickle: bool) -> tuple[str, dict[str, str | None]]:
    """The revision's commit, and the files to download: the documents and one set of weights.

    Each file comes with its hash on the Hub: sha256 for a large file, git's blob id for a small one.
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
    """The library's progress bars: only in a terminal, and closed with the block instead of by garbage collection."""
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
    """Raises WeightFileError if a file's hash is not the Hub's; the library compares only sizes."""
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
            f"{source}: checksum mismatch for {', '.join(damaged)}; deleted from the Hub's cache, "
            "run it again to download it"
        )


def _hash(path: Path, like: str) -> str:
    """A file's sha256, or its git blob id if `like` has the length of one."""
    kind = "sha256" if len(like) == 64 else "sha1"
    with path.open("rb") as file:
        head = b"" if kind == "sha256" else b"blob %d\0" % path.stat().st_size
        return hashlib.file_digest(file, lambda: hashlib.new(kind, head, usedforsecurity=False)).hexdigest()


def _refusal(error: Any, source: str, at: str) -> str:
    """The message for an error of the Hub: what it means and what to do."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    log_in = "set HF_TOKEN or run `hf auth login`"
    if isinstance(error, GatedRepoError):
        return f"{source} is gated: request access on its page, then {log_in}"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no folder {source}, and no such repository on the Hub, or it is private; "
            f"check the name; for a private one {log_in}"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{source} has no revision{at.removeprefix(' at revision')} on the Hub; name a branch, a tag or a commit"
    if error.response.status_code == 401:
        return f"the Hub rejected your token for {source}{at}; {log_in}"
    reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
    return f"the Hub refused {source}{at}: {reason}; try again later, or look at the repository's page"
