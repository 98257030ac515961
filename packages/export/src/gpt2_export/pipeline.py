"""The steps, alone and in one: freeze, onnx, verify, quantize, and make, which is all of them behind one rename."""

import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from gpt2_model import GPT2Config
from gpt2_model.checkpoint import Checkpoint, open_checkpoint
from gpt2_model.errors import SourceError

from gpt2_export.errors import FolderError, PrecisionError
from gpt2_export.folder import atomic, manifest
from gpt2_export.folder.manifest import Manifest
from gpt2_export.folder.reports import QualityReport
from gpt2_export.freeze.freeze import WEIGHTS, freeze, frozen_bytes
from gpt2_export.graphs import admission, kinds
from gpt2_export.graphs.export import Kind
from gpt2_export.graphs.portable import PORTABLE
from gpt2_export.precision.precision import FP32, PRECISIONS, Precision, kept, named
from gpt2_export.progress import Progress, silent
from gpt2_export.verification import tokenizer_parity
from gpt2_export.verification.parity import verify
from gpt2_export.verification.quality import judge
from gpt2_export.weights import network

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
    eos: Sequence[int | str] = (),
    precision: Collection[str] = (FP32,),
    eval_text: Sequence[str | PathLike[str]] = (),
    max_ppl_increase: float | None = None,
    keep: Collection[str] = (),
    progress: Progress = silent,
) -> Manifest:
    """A checkpoint -> a folder that is frozen, exported and verified; there is no OUT unless all of it held.

    Args:
        source: a folder, a repository on the Hub, or "demo", the small model that comes with this package.
        out: the folder to make.
        revision: branch, tag or commit on the Hub.
        offline: never open the network.
        allow_pickle: read pytorch_model.bin where there are no safetensors.
        force: replace OUT if it was made here.
        ignore_config: fields of config.json, unknown here, that do not change the logits.
        eos: the tokens that end a text, by id or as the tokenizer spells them; by default those of its configs.
        precision: beside fp32, which is always made: of "fp16", "int8", "int4".
        eval_text, max_ppl_increase, keep: as for `quantize`.
        progress: told of each stage.

    Returns:
        what manifest.json says, with the parity report.

    Raises:
        GPT2Error: the checkpoint is refused.
        GPT2ExportError: OUT cannot be written, does not verify, or (QualityError) a precision loses too much.
    """
    asked = _asked(precision, eval_text, max_ppl_increase, keep)
    refuse_own_source(source, out)
    atomic.refuse_existing(Path(out), force=force)
    checkpoint = find(source, revision=revision, offline=offline, allow_pickle=allow_pickle, progress=progress)
    needed = max(2, 1 + len(asked)) * frozen_bytes(checkpoint) + SMALL_FILES_BYTES  # 2: `verify` makes a copy
    with atomic.staging(Path(out), force=force, needed_bytes=needed) as folder:
        warnings = freeze(checkpoint, folder, ignore_config=ignore_config, eos=eos, progress=progress)
        tokens = tokenizer_parity.compare(checkpoint.folder, folder)
        found_source = provenance(checkpoint)
        del checkpoint  # its files are mapped: let them go before the folder's own are
        config = network.of(folder)
        _refuse_impossible(config, folder, asked, keep)
        bases, refusals = kinds.trace_all(config, folder / WEIGHTS, progress=progress)
        kinds.write_all(bases, config, folder)
        parity = verify(folder, progress=progress)
        quality = {
            each.name: _add(each, folder, folder, bases, eval_text, max_ppl_increase, keep, progress) for each in asked
        }
        made = manifest.describe(
            source=found_source,
            parity=parity,
            quality=quality,
            warnings=(*warnings, *refusals),
            tokenizer=tokens,
            files=manifest.entries(folder),
        )
        return _write(folder, made)


def freeze_checkpoint(
    source: Source,
    out: str | PathLike[str],
    *,
    revision: str | None = None,
    offline: bool = False,
    allow_pickle: bool = False,
    force: bool = False,
    ignore_config: Collection[str] = (),
    eos: Sequence[int | str] = (),
    progress: Progress = silent,
) -> Manifest:
    """The first step of `make`: a frozen folder without a graph."""
    refuse_own_source(source, out)
    atomic.refuse_existing(Path(out), force=force)
    checkpoint = find(source, revision=revision, offline=offline, allow_pickle=allow_pickle, progress=progress)
    with atomic.staging(Path(out), force=force, needed_bytes=frozen_bytes(checkpoint) + SMALL_FILES_BYTES) as folder:
        warnings = freeze(checkpoint, folder, ignore_config=ignore_config, eos=eos, progress=progress)
        tokens = tokenizer_parity.compare(checkpoint.folder, folder)
        made = manifest.describe(
            source=provenance(checkpoint),
            parity=None,
            quality={},
            warnings=warnings,
            tokenizer=tokens,
            files=manifest.entries(folder),
        )
        return _write(folder, made)


def export_graphs(folder: str | PathLike[str], *, progress: Progress = silent) -> Manifest:
    """The second step: exports the float32 graphs into a frozen folder, unverified."""
    folder = Path(folder)
    with atomic.changing(folder):
        before = manifest.read(folder)
        # The graphs themselves may differ: they are what is made anew.
        graphs = tuple(kind.file + " " for kind in kinds.KINDS)
        wrong = manifest.differences(folder, before)
        _refuse_differences(folder, [line for line in wrong if not line.startswith(graphs)])
        _refuse_unlisted(folder, before)
        config = network.of(folder)
        bases, refusals = kinds.trace_all(config, folder / WEIGHTS, progress=progress)
        kept = tuple(warning for warning in before.warnings if not kinds.is_refusal(warning))
        made = [kind.file for kind in kinds.KINDS]
        others = {name: file for name, file in before.files.items() if name not in made}
        between = manifest.again(replace(before, parity=None, files=others))
        with atomic.within(folder, needed_bytes=SMALL_FILES_BYTES) as inside:
            kinds.write_all(bases, config, inside, beside=folder)
            added = manifest.entries(inside)
            after = manifest.again(replace(between, warnings=(*kept, *refusals), files=others | added))
            gone = [name for name in made if name in before.files and name not in added]
            return _join(inside, folder, added, between, after, gone)


def verify_folder(folder: str | PathLike[str], *, progress: Progress = silent) -> Manifest:
    """The third step: checks every file against the manifest, runs the sweep, and writes the report into the manifest.

    Raises:
        FolderError: there is no graph, or a file is not the one that was made.
        VerificationError: beyond tolerance; the manifest then says nothing of parity.
    """
    folder = Path(folder)
    with atomic.changing(folder):
        before = manifest.read(folder)
        _refuse_differences(folder, manifest.differences(folder, before))
        _refuse_unlisted(folder, before)
        if PORTABLE.file not in before.files:
            raise FolderError(f"{folder} has no {PORTABLE.file}; export it with `gpt2-export onnx {folder}`")
        _admit(folder, before, network.of(folder))
        try:
            parity = verify(folder, progress=progress)
        except Exception:  # a report of another version of these packages is void; what is interrupted found nothing
            _write(folder, manifest.again(replace(before, parity=None)))
            raise
        return _write(folder, manifest.again(replace(before, parity=parity)))


def quantize(
    folder: str | PathLike[str],
    precision: Collection[str],
    *,
    eval_text: Sequence[str | PathLike[str]] = (),
    max_ppl_increase: float | None = None,
    keep: Collection[str] = (),
    progress: Progress = silent,
) -> Manifest:
    """Adds precisions to a made folder, each a graph of every kind and a file of weights; nothing else is changed.

    Args:
        folder: that `make` made, verified.
        precision: of "fp16", "int8", "int4"; one that the folder has is made anew.
        eval_text: UTF-8 files to measure what is lost on, beside the model's own text; by default sonnets.
        max_ppl_increase: in percent, for each of them; by default fp16 0.1, int8 0.5, int4 5.
        keep: matrices that stay float32, such as "h.3", "h.3.mlp.c_proj" or "wte".
        progress: told of each stage.

    Returns:
        what manifest.json says.

    Raises:
        FolderError: the folder is not as it was made, or not verified.
        PrecisionError: there is no such precision for this network, text or matrix.
        QualityError: a precision loses too much; the folder is as it was.

    >>> quantize("demo-folder", ["int3"])
    Traceback (most recent call last):
    gpt2_export.errors.PrecisionError: unknown precision 'int3'; expected one of fp32, fp16, int8, int4
    """
    folder = Path(folder)
    asked = _asked(precision, eval_text, max_ppl_increase, keep)
    if not asked:
        raise PrecisionError(f"{folder} has {FP32} already; name another precision: {', '.join(PRECISIONS)}")
    with atomic.changing(folder):
        before = manifest.read(folder)
        _refuse_differences(folder, manifest.differences(folder, before))
        if before.parity is None:
            raise FolderError(
                f"{folder} is not verified, and the others are measured against it; run `gpt2-export verify`"
            )
        config = network.of(folder)
        _admit(folder, before, config, kinds.kinds_for(asked[0]))  # what an older version made to explain may stay
        _refuse_impossible(config, folder, asked, keep)
        needed = len(asked) * (folder / WEIGHTS).stat().st_size + SMALL_FILES_BYTES
        with atomic.within(folder, needed_bytes=needed) as inside:
            shutil.copy(folder / "config.json", inside)
            bases, _ = kinds.trace_all(config, folder / WEIGHTS, kinds=kinds.kinds_for(asked[0]), progress=progress)
            quality = {
                each.name: _add(each, folder, inside, bases, eval_text, max_ppl_increase, keep, progress)
                for each in asked
            }
            added = manifest.entries(inside, {path.name for path in inside.iterdir()} - {"config.json"})
            between = _without(before, {each.name for each in asked})
            after = replace(between, files={**between.files, **added}, quality={**between.quality, **quality})
            return _join(inside, folder, added, between, manifest.again(after))


def find(
    source: Source, *, revision: str | None, offline: bool, allow_pickle: bool, progress: Progress = silent
) -> Checkpoint:
    """The checkpoint that a user's word means."""
    if source == "demo":
        if revision is not None:
            raise SourceError(f"revision is {revision!r}, but the demo has none; leave revision out")
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


def provenance(checkpoint: Checkpoint) -> manifest.Source:
    """The source in the manifest: its name and commit on the Hub, or the last part of a local path.

    The rest of a path describes a machine and a person, and folders are made to be shared.
    """
    name = checkpoint.source if checkpoint.revision else checkpoint.folder.resolve().name
    return manifest.Source(name=name, revision=checkpoint.revision)


def _asked(
    names: Collection[str],
    texts: Sequence[str | PathLike[str]],
    max_ppl_increase: float | None,
    keep: Collection[str],
) -> tuple[Precision, ...]:
    """The precisions beside float32 that are asked for; what is wrong with the question is told before any work."""
    beside = named(names)
    told = {"eval_text": bool(texts), "max_ppl_increase": max_ppl_increase is not None, "keep": bool(keep)}
    for name, is_given in told.items():
        if is_given and not beside:
            remedy = "add one to precisions, such as int8 (--precision int8)"
            raise PrecisionError(f"{name} is for precisions beside {FP32}; {remedy}")
    if max_ppl_increase is not None and not max_ppl_increase >= 0:
        raise PrecisionError(f"max_ppl_increase is {max_ppl_increase}, must be a percentage of at least 0")
    for text in texts:
        if not Path(text).is_file():
            raise PrecisionError(f"there is no text {text} to measure on")
    return beside


def _refuse_impossible(config: GPT2Config, folder: Path, asked: Collection[Precision], keep: Collection[str]) -> None:
    kept(folder / WEIGHTS, keep)
    for precision in asked:
        refusal = precision.refusal(config)
        if refusal is not None:
            raise PrecisionError(f"{precision.name} is not possible: {refusal}; leave it out")


def _add(
    precision: Precision,
    folder: Path,
    out: Path,
    bases: kinds.Bases,
    texts: Sequence[str | PathLike[str]],
    max_ppl_increase: float | None,
    keep: Collection[str],
    progress: Progress,
) -> QualityReport:
    """Writes a precision's weights and graphs to `out`; returns what it loses."""
    config = network.of(folder)
    progress(f"freeze {precision.name}", 0, 1)
    weights = precision.freeze(config, folder / WEIGHTS, out, keep)
    kinds.write_all(bases, config, out, (precision, weights))
    progress(f"freeze {precision.name}", 1, 1)
    return judge(
        folder,
        out,
        precision,
        files=[Path(text) for text in texts],
        max_ppl_increase=max_ppl_increase,
        keep=keep,
        progress=progress,
    )


def _refuse_differences(folder: Path, wrong: list[str]) -> None:
    if wrong:
        raise FolderError(f"{folder} is not as it was made: {', '.join(wrong)}; make it again")


def _refuse_unlisted(folder: Path, before: Manifest) -> None:
    """A graph that lies in the folder and is not its own would be run as if it were."""
    for kind in kinds.KINDS:
        if kind.file not in before.files and os.path.lexists(folder / kind.file):
            raise FolderError(f"{folder} has {kind.file}, which its manifest does not list; move it away")


def _admit(folder: Path, before: Manifest, config: GPT2Config, run: Collection[Kind] = kinds.KINDS) -> None:
    """Looks at the float32 graphs of a folder before anything runs them."""
    for kind in run:
        if kind.file in before.files:
            admission.admit(folder / kind.file, kind, config, WEIGHTS)


def _without(before: Manifest, precisions: Collection[str]) -> Manifest:
    """The manifest of the same folder without these precisions."""
    gone = {before.weights.get(name) for name in precisions}
    gone |= {file for name in precisions for file in before.graphs.get(name, {}).values()}
    files = {name: file for name, file in before.files.items() if name not in gone}
    quality = {name: report for name, report in before.quality.items() if name not in precisions}
    return manifest.again(replace(before, files=files, quality=quality))


def _join(
    inside: Path,
    folder: Path,
    added: Collection[str],
    between: Manifest,
    after: Manifest,
    removed: Collection[str] = (),
) -> Manifest:
    """Brings new files and the manifest that lists them into a folder; returns that."""
    texts = {"between": manifest.text(between), "after": manifest.text(after)}
    atomic.join(inside, folder, added, removed=removed, **texts)
    return after


def _write(folder: Path, made: Manifest) -> Manifest:
    atomic.replace_text(folder / manifest.MANIFEST, manifest.text(made))
    return made
