"""The four steps, alone and in one: freeze, onnx, verify, and make, which is all of them behind one rename."""

from collections.abc import Collection
from os import PathLike
from pathlib import Path
from typing import Any

from gpt2_model import GPT2Config
from gpt2_model.checkpoint import Checkpoint, open_checkpoint, read_json
from gpt2_model.errors import SourceError

from gpt2_export import bundle, kinds, manifest
from gpt2_export.errors import FolderError
from gpt2_export.freeze import WEIGHTS, freeze, frozen_bytes
from gpt2_export.portable import PORTABLE
from gpt2_export.progress import Progress, silent
from gpt2_export.verify import verify

DEMO = Path(__file__).parent / "demo"
SMALL_FILES_BYTES = 16_000_000  # room for graphs, tokenizer and configs
Source = str | PathLike[str]


def make(
    source: Source,
    out: str | PathLike[str],
    *,
    revision: str | None = None,
    offline: bool = False,
    allow_pickle: bool = False,
    force: bool = False,
    ignore_config: Collection[str] = (),
    progress: Progress = silent,
) -> dict[str, Any]:
    """A checkpoint -> a folder that is frozen, exported and verified; there is no OUT unless all of it held.

    Args:
        source: a folder, a repository on the hub, or "demo", the small model that comes with this package.
        out: the folder to make.
        revision: branch, tag or commit on the hub.
        offline: never open the network.
        allow_pickle: read pytorch_model.bin where there are no safetensors.
        force: replace OUT if it was made here.
        ignore_config: fields of config.json, unknown here, that do not change the logits.
        progress: told of each stage.

    Returns:
        the content of manifest.json, with the parity report.

    Raises:
        GPT2Error: the checkpoint is refused.
        ExportError: OUT cannot be written, or does not verify.
    """
    refuse_own_source(source, out)
    bundle.refuse_existing(Path(out), force=force)
    checkpoint = find(source, revision=revision, offline=offline, allow_pickle=allow_pickle, progress=progress)
    with bundle.staging(Path(out), force=force, needed_bytes=frozen_bytes(checkpoint) + SMALL_FILES_BYTES) as folder:
        warnings = freeze(checkpoint, folder, ignore_config=ignore_config, progress=progress)
        name, found_revision = provenance(checkpoint)
        del checkpoint  # its files are mapped: let them go before the folder's own are
        warnings += kinds.export_all(_config(folder), folder, WEIGHTS, progress=progress)
        parity = verify(folder, progress=progress)
        return _describe(folder, source=name, revision=found_revision, parity=parity, warnings=warnings)


def freeze_only(
    source: Source,
    out: str | PathLike[str],
    *,
    revision: str | None = None,
    offline: bool = False,
    allow_pickle: bool = False,
    force: bool = False,
    ignore_config: Collection[str] = (),
    progress: Progress = silent,
) -> dict[str, Any]:
    """The first step of `make`: a frozen folder without a graph."""
    refuse_own_source(source, out)
    bundle.refuse_existing(Path(out), force=force)
    checkpoint = find(source, revision=revision, offline=offline, allow_pickle=allow_pickle, progress=progress)
    with bundle.staging(Path(out), force=force, needed_bytes=frozen_bytes(checkpoint) + SMALL_FILES_BYTES) as folder:
        warnings = freeze(checkpoint, folder, ignore_config=ignore_config, progress=progress)
        name, found_revision = provenance(checkpoint)
        return _describe(folder, source=name, revision=found_revision, parity=None, warnings=warnings)


def add_graph(folder: str | PathLike[str], *, progress: Progress = silent) -> dict[str, Any]:
    """The second step: exports the graphs into a frozen folder, unverified."""
    folder = Path(folder)
    before = manifest.read(folder)
    # The graphs themselves may differ: they are what is made anew.
    graphs = tuple(kind.file + " " for kind in kinds.KINDS)
    wrong = manifest.differences(folder, before)
    _refuse_differences(folder, [line for line in wrong if not line.startswith(graphs)])
    refusals = kinds.export_all(_config(folder), folder, WEIGHTS, progress=progress)
    kept = [warning for warning in before["warnings"] if not kinds.is_refusal(warning)]
    return _rewrite(folder, before | {"warnings": kept + refusals}, parity=None)


def verify_folder(folder: str | PathLike[str], *, progress: Progress = silent) -> dict[str, Any]:
    """The third step: checks every file against the manifest, runs the sweep, and writes the report into the manifest.

    Raises:
        FolderError: there is no graph, or a file is not the one that was made.
        VerificationError: beyond tolerance; the manifest then says nothing of parity.
    """
    folder = Path(folder)
    before = manifest.read(folder)
    _refuse_differences(folder, manifest.differences(folder, before))
    if not (folder / PORTABLE.file).exists():
        raise FolderError(f"{folder} has no {PORTABLE.file}; export it with `gpt2-export onnx {folder}`")
    _rewrite(folder, before, parity=None)  # what was true of another version of these packages is void from here on
    return _rewrite(folder, before, parity=verify(folder, progress=progress))


def find(
    source: Source, *, revision: str | None, offline: bool, allow_pickle: bool, progress: Progress = silent
) -> Checkpoint:
    """The checkpoint that a user's word means."""
    if source == "demo":
        if revision is not None:
            raise SourceError(f"revision {revision!r} was asked for, but the demo has none; leave it out")
        return open_checkpoint(DEMO)
    progress("open", 0, 1)
    checkpoint = open_checkpoint(source, revision=revision, offline=offline, allow_pickle=allow_pickle)
    progress("open", 1, 1)
    return checkpoint


def refuse_own_source(source: Source, out: Source) -> None:
    """Raises FolderError where OUT is SOURCE, or holds it: replacing it would remove the checkpoint."""
    local, place = Path(source).resolve(), Path(out).resolve()
    if source != "demo" and local.is_dir() and (place == local or place in local.parents):
        raise FolderError(f"{out} is the checkpoint itself, or holds it; choose another place to write to")


def provenance(checkpoint: Checkpoint) -> tuple[str, str | None]:
    """What the manifest says of the source: its name and commit on the hub, or the last part of a local path.

    The rest of a path tells of a machine and a person, and the folder is made to be given away.
    """
    return checkpoint.source if checkpoint.revision else checkpoint.folder.resolve().name, checkpoint.revision


def _refuse_differences(folder: Path, wrong: list[str]) -> None:
    if wrong:
        raise FolderError(f"{folder} is not as it was made: {', '.join(wrong)}; make it again")


def _config(folder: Path) -> GPT2Config:
    return GPT2Config.from_hf(read_json(folder / "config.json"))


def _rewrite(folder: Path, before: dict[str, Any], *, parity: dict[str, Any] | None) -> dict[str, Any]:
    source = before["source"]
    return _describe(
        folder, source=source["name"], revision=source["revision"], parity=parity, warnings=before["warnings"]
    )


def _describe(folder: Path, **said: Any) -> dict[str, Any]:
    document = manifest.describe(folder, graphs=kinds.held(folder), **said)
    bundle.replace_text(folder / manifest.MANIFEST, manifest.text(document))
    return document
