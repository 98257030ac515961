"""The command `gpt2-export`: one call into the package per subcommand, and one line per error."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from gpt2_export.cli.interruption import unwinding

if TYPE_CHECKING:
    from gpt2_export.folder.manifest import Manifest

F = TypeVar("F", bound=Callable[..., Any])
LONGEST_MESSAGE = 2000
EXISTING = click.Path(path_type=Path)
debug_option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


class _Commands(click.Group):
    def main(self, *args: Any, **extra: Any) -> Any:
        """click's own, but a failure to write --help is one line too."""
        try:
            if sys.stdout is None:
                from gpt2_export.errors import GPT2ExportError

                _fail(GPT2ExportError("standard output is closed; open it, or send it to a file"))
            return super().main(*args, **extra)
        except OSError as error:
            _fail(error)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="gpt2-export")
def main() -> None:
    """Turns a GPT-2 checkpoint into one folder that transformers and ONNX runtimes open.

    \b
    gpt2-export make demo demo-folder        the small model that comes with this package
    gpt2-export make gpt2 gpt2-folder        OpenAI's model, from the Hugging Face Hub
    gpt2-export quantize gpt2-folder --precision int8
    gpt2-export inspect gpt2-folder          show its contents and how it was verified
    gpt2-export push gpt2-folder you/gpt2    upload it to the Hub, with a model card
    """


def source_options(command: F) -> F:
    """The options of commands that read a checkpoint."""
    options = (
        click.option("--revision", metavar="REV", help="Branch, tag or commit on the Hub."),
        click.option("--offline", is_flag=True, help="Never use the network: read only the Hub's local cache."),
        click.option(
            "--allow-pickle",
            is_flag=True,
            help="Read pytorch_model.bin, ckpt.pt or model.pt if there is no model.safetensors.",
        ),
        click.option("--force", is_flag=True, help="Replace OUT, if it is a folder that gpt2-export made."),
        click.option(
            "--eos",
            metavar="TOKEN",
            multiple=True,
            help="End texts at this token, given by id or text. Repeatable.  [default: from SOURCE's configs]",
        ),
        click.option(
            "--ignore-config",
            metavar="FIELD",
            multiple=True,
            help="Ignore this unknown field of config.json; only if it cannot change the logits. Repeatable.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _names(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


def quality_options(command: F) -> F:
    """The options of commands that add precisions."""
    options = (
        click.option(
            "--eval-text",
            metavar="FILE",
            type=EXISTING,
            multiple=True,
            help="Measure the loss on this text as well as the model's own. Repeatable.  [default: sonnets]",
        ),
        click.option(
            "--max-ppl-increase",
            metavar="PERCENT",
            type=float,
            help="Refuse a precision that raises perplexity by more than this.  [default: fp16 0.1, int8 0.5, int4 5]",
        ),
        click.option(
            "--keep",
            metavar="LAYER",
            multiple=True,
            help="Keep these matrices in float32: h.3, h.3.mlp.c_proj, wte or wpe. Repeatable.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@main.command(short_help="Freeze, export and verify SOURCE in one go.")
@click.argument("source")
@click.argument("out", type=EXISTING)
@source_options
@click.option(
    "--precision",
    metavar="NAMES",
    default="fp32",
    show_default=True,
    callback=_names,
    help="Any of fp32 (always made), fp16, int8, int4, separated by commas.",
)
@quality_options
@debug_option
def make(debug: bool, source: str, out: Path, **options: Any) -> None:
    """Freezes, exports and verifies SOURCE in one go. OUT appears only if every step succeeds.

    SOURCE is a repository on the Hugging Face Hub, a local checkpoint folder, or demo, the small model that comes with
    this package (for a folder of that name, write ./demo).

    \b
    Example:
      gpt2-export make openai-community/gpt2 gpt2-folder --precision fp32,int8
    """
    with one_line_errors(debug):
        from gpt2_export.folder.inspection import parity_lines, precision_lines
        from gpt2_export.pipeline import make as make_folder
        from gpt2_export.progress import progress_for

        with unwinding():
            manifest = make_folder(source, out, progress=progress_for(sys.stderr), **options)
        _finish(out, manifest, *parity_lines(manifest.parity), *precision_lines(out, manifest))


@main.command(short_help="Write SOURCE as one float32 safetensors file.")
@click.argument("source")
@click.argument("out", type=EXISTING)
@source_options
@debug_option
def freeze(debug: bool, source: str, out: Path, **options: Any) -> None:
    """Writes SOURCE to OUT as one float32 safetensors file with its config and tokenizer.

    \b
    Example:
      gpt2-export freeze ./my-finetune frozen
    """
    with one_line_errors(debug):
        from gpt2_export.pipeline import freeze_checkpoint
        from gpt2_export.progress import progress_for

        with unwinding():
            manifest = freeze_checkpoint(source, out, progress=progress_for(sys.stderr), **options)
        _finish(out, manifest)


@main.command(short_help="Export the graphs into a frozen FOLDER.")
@click.argument("folder", type=EXISTING)
@debug_option
def onnx(debug: bool, folder: Path) -> None:
    """Exports the graphs into a frozen FOLDER. They read the weights file that is already there.

    model.onnx is the portable graph, which every ONNX runtime opens. gpt2-runtime prefers model_serving.onnx, which
    updates its key-value cache in place and computes only the logits requested. model_explain.onnx returns the
    attention and each layer's prediction, for `gpt2-runtime explain`.

    \b
    Example:
      gpt2-export onnx frozen
    """
    with one_line_errors(debug):
        from gpt2_export.pipeline import export_graphs
        from gpt2_export.progress import progress_for

        with unwinding():
            manifest = export_graphs(folder, progress=progress_for(sys.stderr))
        _finish(folder, manifest)


@main.command(short_help="Compare the graphs with the scratch network.")
@click.argument("folder", type=EXISTING)
@debug_option
def verify(debug: bool, folder: Path) -> None:
    """Compares FOLDER's graphs with the scratch network, and with transformers if it is installed.

    Compares logits over a sweep of shapes, and 64 greedy tokens. The report goes into manifest.json. The exit code is 1
    if a difference exceeds the tolerance.

    \b
    Example:
      gpt2-export verify gpt2-folder
    """
    with one_line_errors(debug):
        from gpt2_export.folder.inspection import parity_lines
        from gpt2_export.pipeline import verify_folder
        from gpt2_export.progress import progress_for

        with unwinding():
            manifest = verify_folder(folder, progress=progress_for(sys.stderr))
        _finish(folder, manifest, *parity_lines(manifest.parity))


@main.command(short_help="Add precisions to a made FOLDER.")
@click.argument("folder", type=EXISTING)
@click.option(
    "--precision",
    metavar="NAMES",
    required=True,
    callback=_names,
    help="Any of fp16, int8, int4, separated by commas; an existing one is replaced.",
)
@quality_options
@debug_option
def quantize(debug: bool, folder: Path, **options: Any) -> None:
    """Adds precisions to a made FOLDER: for each, a weights file and the graphs that read it.

    First the loss against float32 is measured: perplexity, KL divergence, likeliest and greedy tokens, on text that the
    model writes, and on sonnets or your own texts. A precision beyond --max-ppl-increase is refused, the layers that
    lose most are listed, and FOLDER stays as it was.

    \b
    fp16   half the size, for GPUs
    int8   about a quarter of the size
    int4   under a fifth of the size

    \b
    Example:
      gpt2-export quantize gpt2-folder --precision int8,int4 --eval-text my-domain.txt
    """
    with one_line_errors(debug):
        from gpt2_export.folder.inspection import precision_lines
        from gpt2_export.pipeline import quantize as add_precisions
        from gpt2_export.progress import progress_for

        with unwinding():
            manifest = add_precisions(folder, progress=progress_for(sys.stderr), **options)
        _finish(folder, manifest, *precision_lines(folder, manifest))


@main.command(short_help="Show what is in FOLDER.")
@click.argument("folder", type=EXISTING)
@click.option("--check-hashes", is_flag=True, help="Compare every file with its sha256; exit code 1 if one differs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@debug_option
def inspect(debug: bool, folder: Path, check_hashes: bool, as_json: bool) -> None:
    """Shows FOLDER's sizes, precision, inputs and outputs, operators, hashes and parity report.

    \b
    Example:
      gpt2-export inspect gpt2-folder --check-hashes
    """
    with one_line_errors(debug):
        from gpt2_export.folder import inspection

        report = inspection.inspect(folder, check_hashes=check_hashes)
        click.echo(inspection.as_json(report) if as_json else inspection.table(report))
        if report.get("differences"):
            raise SystemExit(1)


@main.command(short_help="Upload FOLDER to the Hugging Face Hub.")
@click.argument("folder", type=EXISTING)
@click.argument("repository", metavar="ORG/NAME")
@click.option("--branch", metavar="NAME", help="Commit to this branch; it is created if needed.  [default: main]")
@click.option("--private", is_flag=True, help="If the repository is created, make it private.")
@click.option("--message", metavar="TEXT", help="Commit message.  [default: Upload FOLDER]")
@click.option("--create-pr", is_flag=True, help="Propose the commit as a pull request.")
@click.option("--dry-run", is_flag=True, help="Print the card and the files, and upload nothing.")
@debug_option
def push(debug: bool, folder: Path, repository: str, dry_run: bool, **options: Any) -> None:
    """Uploads FOLDER to the Hub in one commit: the files in its manifest, and a model card.

    FOLDER must be verified and unchanged since. The card says what it is, how it was verified and how to run it. A
    README.md that you wrote yourself, in FOLDER or on the Hub, is kept instead. Files of an earlier push that FOLDER
    does not have are removed. The token is that of `hf auth login`, or HF_TOKEN.

    \b
    Example:
      gpt2-export push gpt2-folder your-name/gpt2-onnx --private
    """
    with one_line_errors(debug):
        from gpt2_export.folder.manifest import CARD
        from gpt2_export.hub import push as hub
        from gpt2_export.progress import progress_for

        progress = progress_for(sys.stderr)
        if dry_run:
            with unwinding():
                plan = hub.prepare(folder, repository, progress=progress)
            sizes = [*plan.files.items(), (CARD, len(plan.card.encode()))]
            files = "\n".join(f"{size:>13,}  {name}" for name, size in sizes)
            click.echo(_escaped(f"{plan.card}\n{files}", keep="\n\t"))
            return
        with unwinding():
            pushed = hub.push(folder, repository, progress=progress, **options)
        if pushed.kept_card:
            click.echo(f"warning: {repository} has a README.md written by hand; it was kept", err=True)
        for name in pushed.removed:
            click.echo(_escaped(f"removed {name}, from an earlier push"))
        click.echo(f"{repository}: {pushed.files} files, {pushed.nbytes:,} bytes, {pushed.url}")


@contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Turns an error that the user can fix into one line and exit code 1; a bug of ours stays a traceback."""
    from gpt2_model import GPT2Error

    from gpt2_export.errors import GPT2ExportError, QualityError

    try:
        yield
    except KeyboardInterrupt:
        click.echo("interrupted; nothing was left behind", err=True)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise  # click exits quietly
    except (GPT2Error, GPT2ExportError, OSError) as error:
        if debug:
            click.echo(_escaped(traceback.format_exc(), keep="\n"), err=True, nl=False)
        clear = "\r\033[K" if sys.stderr.isatty() else ""  # a progress bar may be drawn there
        if isinstance(error, QualityError):
            from gpt2_export.folder.inspection import sensitivity_lines

            click.echo(clear + "\n".join(sensitivity_lines(error.report["sensitivity"])), err=True)
        _fail(error, clear)


def _fail(error: Exception, clear: str = "") -> NoReturn:
    message = _escaped(" ".join(str(error).split()))
    if isinstance(error, OSError) and error.filename is None:  # errors of a file name it
        message = f"output cannot be written: {error.strerror or message}; free some space, or write it elsewhere"
        _drop_output()
    if len(message) > LONGEST_MESSAGE:  # some libraries quote a whole file; the remedy is at the end
        message = f"{message[: LONGEST_MESSAGE - 500]} ... {message[-400:]}"
    click.echo(f"{clear}error: {message}", err=True, color=True)
    raise SystemExit(1)


def _escaped(text: str, keep: str = "") -> str:
    from gpt2_model.quoting import escaped  # imports torch, which --help does not need

    return escaped(text, keep)


def _drop_output() -> None:
    """Drops stdout's buffer, or Python would report the failed write again at exit."""
    with suppress(OSError):  # not a real file, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _finish(folder: Path, manifest: "Manifest", *lines: str) -> None:
    for warning in manifest.warnings:
        click.echo(_escaped(f"warning: {warning}"), err=True)
    for line in lines:
        click.echo(_escaped(line))
    size = sum(file.bytes for file in manifest.files.values())
    click.echo(_escaped(f"{folder}: {len(manifest.files)} files, {size:,} bytes"))
