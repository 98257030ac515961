"""The steps freeze, onnx, verify and quantize, and make, which runs them all and ends with one rename."""

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
SMALL_FILES_BYTES = 16_000_000  # allowance for graphs, tokenizer and configs
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
    """A checkpoint -> a frozen, exported and verified folder; OUT appears only if every step succeeds.

    Args:
        source: a folder, a repository on the Hub, or "demo", the small model that comes with this package.
        out: the folder to make.
        revision: branch, tag or commit on the Hub.
        offline: never use the network.
        allow_pickle: read pytorch_model.bin if there are no safetensors.
        force: replace OUT if gpt2-export made it.
        ignore_config: unknown fields of config.json to ignore; only if they cannot change the logits.
        eos: the tokens that end a text, by id or as the tokenizer spells them; the configs' by default.
        precision: in addition to fp32, which is always made: "fp16", "int8", "int4".
        eval_text, max_ppl_increase, keep: as for `quantize`.
        progress: called for each stage.

    Returns:
        the manifest, with the parity report.

    Raises:
        GPT2Error: the checkpoint is refused.
        GPT2ExportError: OUT cannot be written or verified, or (QualityError) a precision loses too much.
    """
    precisions = parse_precisions(precision, eval_text, max_ppl_increase, keep)
    refuse_own_source(source, out)
    atomic.refuse_existing(Path(out), force=force)
    checkpoint = find(source, revision=revision, offline=offline, allow_pickle=allow_pickle, progress=progress)
    needed = max(2, 1 + len(precisions)) * frozen_bytes(checkpoint) + SMALL_FILES_BYTES  # 2: `verify` makes a copy
    with atomic.staging(Path(out), force=force, needed_bytes=needed) as folder:
        warnings = freeze(checkpoint, folder, ignore_config=ignore_config, eos=eos, progress=progress)
        tokens = tokenizer_parity.compare(checkpoint.folder, folder)
        origin = provenance(checkpoint)
        del checkpoint  # unmaps its files before the folder's own are mapped
        config = network.of(folder)
        _refuse_impossible(config, folder, precisions, keep)
        bases, refusals = kinds.trace_all(config, folder / WEIGHTS, progress=progress)
        kinds.write_all(bases, config, folder)
        parity = verify(folder, progress=progress)
        quality = {
            each.name: _add(each, folder, folder, bases, eval_text, max_ppl_increase, keep, progress)
            for each in precisions
        }
        made = manifest.describe(
            source=origin,
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
    """The first step of `make`: a frozen folder without graphs."""
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
        # The graphs themselves may differ: they are exported again.
        graphs = tuple(kind.file + " " for kind in kinds.KINDS)
        wrong = manifest.differences(folder, before)
        _refuse_differences(folder, [line for line in wrong if not line.startswith(graphs)])
        _refuse_unlisted(folder, before)
        config = network.of(folder)
        bases, refusals = kinds.trace_all(config, folder / WEIGHTS, progress=progress)
        other_warnings = tuple(warning for warning in before.warnings if not kinds.is_refusal(warning))
        made = [kind.file for kind in kinds.KINDS]
        others = {name: file for name, file in before.files.items() if name not in made}
        between = manifest.again(replace(before, parity=None, files=others))
        with atomic.within(folder, needed_bytes=SMALL_FILES_BYTES) as inside:
            kinds.write_all(bases, config, inside, beside=folder)
            added = manifest.entries(inside)
            after = manifest.again(replace(between, warnings=(*other_warnings, *refusals), files=others | added))
            gone = [name for name in made if name in before.files and name not in added]
            return _join(inside, folder, added, between, after, gone)


def verify_folder(folder: str | PathLike[str], *, progress: Progress = silent) -> Manifest:
    """The third step: checks every file against the manifest, runs the sweep, and writes the report into the manifest.

    Raises:
        FolderError: a graph is missing, or a file was changed.
        VerificationError: beyond tolerance; the manifest then has no parity report.
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
        except Exception:  # an old report is void then; an interruption proves nothing
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
    """Adds precisions to a made folder, each a graph of every kind and a weights file; nothing else changes.

    Args:
        folder: a verified folder from `make`.
        precision: any of "fp16", "int8", "int4"; an existing one is replaced.
        eval_text: UTF-8 files to measure the loss on, in addition to the model's own text; sonnets by default.
        max_ppl_increase: the limit in percent, for each of them; by default fp16 0.1, int8 0.5, int4 5.
        keep: matrices to keep in float32, such as "h.3", "h.3.mlp.c_proj" or "wte".
        progress: called for each stage.

    Returns:
        the manifest.

    Raises:
        FolderError: the folder was changed, or is not verified.
        PrecisionError: a precision, text or matrix does not exist or does not fit this network.
        QualityError: a precision loses too much; the folder is as it was.

    >>> quantize("demo-folder", ["int3"])
    Traceback (most recent call last):
    gpt2_export.errors.PrecisionError: unknown precision 'int3'; expected one of fp32, fp16, int8, int4
    """
    folder = Path(folder)
    precisions = parse_precisions(precision, eval_text, max_ppl_increase, keep)
    if not precisions:
        raise PrecisionError(f"{folder} already has {FP32}; name another precision: {', '.join(PRECISIONS)}")
    with atomic.changing(folder):
        before = manifest.read(folder)
        _refuse_differences(folder, manifest.differences(folder, before))
        if before.parity is None:
            raise FolderError(
                f"{folder} is not verified, and the others are measured against it; run `gpt2-export verify`"
            )
        config = network.of(folder)
        _admit(folder, before, config, kinds.kinds_for(precisions[0]))  # an older version's explain graph may stay
        _refuse_impossible(config, folder, precisions, keep)
        needed = len(precisions) * (folder / WEIGHTS).stat().st_size + SMALL_FILES_BYTES
        with atomic.within(folder, needed_bytes=needed) as inside:
            shutil.copy(folder / "config.json", inside)
            bases, _ = kinds.trace_all(
                config, folder / WEIGHTS, kinds=kinds.kinds_for(precisions[0]), progress=progress
            )
            quality = {
                each.name: _add(each, folder, inside, bases, eval_text, max_ppl_increase, keep, progress)
                for each in precisions
            }
            added = manifest.entries(inside, {path.name for path in inside.iterdir()} - {"config.json"})
            between = _without(before, {each.name for each in precisions})
            after = replace(between, files={**between.files, **added}, quality={**between.quality, **quality})
            return _join(inside, folder, added, between, manifest.again(after))


def find(
    source: Source, *, revision: str | None, offline: bool, allow_pickle: bool, progress: Progress = silent
) -> Checkpoint:
    """The checkpoint of a SOURCE argument."""
    if source == "demo":
        if revision is not None:
            raise SourceError(f"revision is {revision!r}, but the demo has none; leave revision out")
        return open_checkpoint(DEMO)
    progress("open", 0, 1)
    checkpoint = open_checkpoint(source, revision=revision, offline=offline, allow_pickle=allow_pickle)
    progress("open", 1, 1)
    return checkpoint


def refuse_own_source(source: Source, out: Source) -> None:
    """Raises FolderError if OUT is SOURCE or contains it: replacing it would delete the checkpoint."""
    local, place = Path(source).resolve(), Path(out).resolve()
    if source != "demo" and local.is_dir() and (place == local or place in local.parents):
        raise FolderError(f"{out} is the checkpoint itself, or contains it; choose another OUT")


def provenance(checkpoint: Checkpoint) -> manifest.Source:
    """The source in the manifest: its name and commit on the Hub, or the last part of a local path.

    The rest of a path describes a machine and a person, and folders are made to be shared.
    """
    name = checkpoint.source if checkpoint.revision else checkpoint.folder.resolve().name
    return manifest.Source(name=name, revision=checkpoint.revision)


def parse_precisions(
    names: Collection[str],
    texts: Sequence[str | PathLike[str]],
    max_ppl_increase: float | None,
    keep: Collection[str],
) -> tuple[Precision, ...]:
    """The requested precisions other than float32; wrong arguments are refused before any work."""
    beside = named(names)
    options = {"eval_text": bool(texts), "max_ppl_increase": max_ppl_increase is not None, "keep": bool(keep)}
    for name, is_given in options.items():
        if is_given and not beside:
            remedy = "add one to precisions, such as int8 (--precision int8)"
            raise PrecisionError(f"{name} applies to precisions other than {FP32}; {remedy}")
    if max_ppl_increase is not None and not max_ppl_increase >= 0:
        raise PrecisionError(f"max_ppl_increase is {max_ppl_increase}; it must be a percentage of at least 0")
    for text in texts:
        if not Path(text).is_file():
            raise PrecisionError(f"eval_text {text} does not exist")
    return beside


def _refuse_impossible(
    config: GPT2Config, folder: Path, precisions: Collection[Precision], keep: Collection[str]
) -> None:
    kept(folder / WEIGHTS, keep)
    for precision in precisions:
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
    """Writes a precision's weights and graphs to `out`; returns its quality report."""
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
        raise FolderError(f"{folder} was changed after it was made: {', '.join(wrong)}; make it again")


def _refuse_unlisted(folder: Path, before: Manifest) -> None:
    """Refuses a graph that the manifest does not list: it would be run as if it were the folder's own."""
    for kind in kinds.KINDS:
        if kind.file not in before.files and os.path.lexists(folder / kind.file):
            raise FolderError(f"{folder} has {kind.file}, which its manifest does not list; move it away")


def _admit(folder: Path, before: Manifest, config: GPT2Config, run: Collection[Kind] = kinds.KINDS) -> None:
    """Checks the float32 graphs of a folder before anything runs them."""
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
    """Moves new files and their manifest into a folder; returns the manifest."""
    texts = {"between": manifest.text(between), "after": manifest.text(after)}
    atomic.join(inside, folder, added, removed=removed, **texts)
    return after


def _write(folder: Path, made: Manifest) -> Manifest:
    atomic.replace_text(folder / manifest.MANIFEST, manifest.text(made))
    return made
