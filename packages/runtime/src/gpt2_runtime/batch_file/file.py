"""A file of prompts -> a file of completions, a line each, which goes on where it was when something ends it.

Lines are written as prompts end, each with one write. What was written stays: a second run drops the line that was cut,
if one was, and does those that are missing.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import BufferedReader, FileIO
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from gpt2_runtime.batch_file.line import MOST_LINE_BYTES, Defaults, Job, read, written
from gpt2_runtime.errors import GPT2RuntimeError, JobError
from gpt2_runtime.generation.prompt_lookup import LookupConfig
from gpt2_runtime.generation.scheduler import ROWS, check_rows
from gpt2_runtime.text.batch import Prompt, complete_batch
from gpt2_runtime.text.generator import TextGenerator

REMEDY = "name another OUTPUT, or delete this one"
START = b'{"id": '  # of each line that is written
MOST_SKIPPED_BYTES = 10**9  # of a line that is too long, before its file is taken to have no lines
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as PowerShell's > writes

# Beside its graph and weights, what a folder's answers hang on: its vocabulary, and where a text ends.
DECIDING = ("config.json", "generation_config.json", "tokenizer.json", "vocab.json", "merges.txt")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far it has come.

    Attributes:
        answered: lines written by this run.
        kept: lines that were written before.
        failed: lines that have no answer.
        tokens: new ones, of this run.
    """

    answered: int = 0
    kept: int = 0
    failed: int = 0
    tokens: int = 0

    @property
    def lines(self) -> int:
        """Those of the input that are dealt with."""
        return self.answered + self.kept + self.failed


def run(
    generator: TextGenerator,
    source: Iterable[bytes],
    target: Path,
    *,
    defaults: Defaults,
    rows: int = ROWS,
    lookup: LookupConfig | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    refused: Callable[[int, GPT2RuntimeError], None] = lambda _, __: None,
) -> Progress:
    """Answers the lines of `source` that `target` has no answer to.

    Args:
        generator: the folder.
        source: lines of JSON, which are asked for as rows become free; empty ones are passed over.
        target: a file that is made, or gone on with.
        defaults: what holds for the lines that say nothing else; `model` is filled in here.
        rows: how many prompts are continued at once.
        lookup: as for `complete_batch`.
        progress: told after each line.
        refused: told of each line that has no answer, by its number.

    Raises:
        JobError: `target` is in use, is a file of the model's folder, was not written by a batch, or answers another
            question under the same id.
        SettingError: `rows` is out of range.
    """
    bundle = generator.session.bundle
    if bundle.owns(target):
        raise JobError(f"{target} is a file of the model in {bundle.folder}; name another OUTPUT")
    check_rows(rows, generator.session)  # before a file is made, or its cut line dropped
    with _opened(target) as file:
        lines = _Lines(
            source, replace(defaults, model=_model(generator, lookup)), _answers(file, target), progress, refused
        )
        for result in complete_batch(generator, lines.prompts(target), rows=rows, lookup=lookup):
            job = lines.open.pop(result.index)
            if result.error is not None:
                lines.fail(job.line, result.error)
            else:
                _write(file, target, written(job, result.completions, generator.tokenizer))
                lines.add(answered=1, tokens=sum(len(each.token_ids) for each in result.completions))
        return lines.state


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, of one that is too long as much as `read` needs to refuse it: memory holds no more.

    Raises:
        JobError: the file has no lines, or is not UTF-8.

    >>> from io import BytesIO
    >>> [len(line) for line in lines_of(BytesIO(b"{}\\n" + 5_000_000 * b"x" + b"\\n{}"))]
    [3, 4000001, 2]
    """
    number = 0
    while line := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        if number == 1 and line.startswith(UTF16):
            raise JobError("file is UTF-16, must be UTF-8; convert it, e.g. with iconv -f UTF-16 -t UTF-8")
        skipped, rest = 0, line
        while len(rest) > MOST_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MOST_LINE_BYTES + 1)
            if (skipped := skipped + len(rest)) > MOST_SKIPPED_BYTES:
                told = (
                    f"line {number} has no end in {MOST_SKIPPED_BYTES:,} bytes, must have at most {MOST_LINE_BYTES:,}"
                )
                raise JobError(f"{told}; name a file of lines")
        yield line


def is_empty(line: bytes) -> bool:
    """Whether a line says nothing, but for a byte order mark."""
    return not line.removeprefix(codecs.BOM_UTF8).strip()


class _Lines:
    """The input's lines, as far as they were asked for, and what became of them."""

    def __init__(
        self,
        source: Iterable[bytes],
        defaults: Defaults,
        answers: Mapping[str, str],
        progress: Callable[[Progress], None],
        refused: Callable[[int, GPT2RuntimeError], None],
    ) -> None:
        self.state = Progress()
        self.open: dict[int, Job] = {}  # those without an answer, by their place among the prompts
        self._source = source
        self._defaults = defaults
        self._answers = answers
        self._numbers: dict[str, int] = {}  # of the line of each id
        self._progress = progress
        self._refused = refused

    def prompts(self, target: Path) -> Iterator[Prompt]:
        """Those that `target` does not answer."""
        places = count()
        for number, text in enumerate(self._source, 1):
            if is_empty(text):
                continue
            try:
                job = read(text, number, self._defaults)
                if (other := self._numbers.setdefault(job.key, number)) != number:
                    raise JobError(f"id {job.key} is that of line {other} too; give each line its own")
            except GPT2RuntimeError as error:
                self.fail(number, error)
                continue
            if job.key not in self._answers:
                self.open[next(places)] = job
                yield job.prompt
            elif self._answers[job.key] == job.digest:
                self.add(kept=1)
            else:
                told = f"{target} answers id {job.key} of another prompt, model or setting than line {number} has"
                raise JobError(f"{told}; {REMEDY}")

    def fail(self, line: int, error: GPT2RuntimeError) -> None:
        """A line has no answer."""
        self._refused(line, error)
        self.add(failed=1)

    def add(self, **more: int) -> None:
        """So many more of what `Progress` tells."""
        self.state = replace(self.state, **{name: getattr(self.state, name) + number for name, number in more.items()})
        self._progress(self.state)


def _model(generator: TextGenerator, lookup: LookupConfig | None) -> str:
    """Tells by the manifest's hashes one folder, precision and graph from others; and which way it is run.

    Lookup changes no text, but where it is `fast_single`.
    """
    session, bundle = generator.session, generator.session.bundle
    names = (bundle.weights[session.precision], bundle.graphs[session.precision][session.graph], *DECIDING)
    told = [f"{name} {bundle.files[name].sha256}" for name in names if name in bundle.files]
    way = ["fast_single"] + ["lookup"] * (lookup is not None) if session.fast_single else []
    return " ".join([*told, *way])


def _opened(target: Path) -> FileIO:
    """The file, for this process alone where the system can promise that.

    Without a buffer: one that could not be written would be tried again when the file is closed.
    """
    try:
        if target.exists() and not target.is_file():
            told = f"{target} is no regular file, so that an interrupted run could not be gone on with"
            raise JobError(f"{told}; name a file")
        file = target.open("a+b", buffering=0)
    except (OSError, ValueError) as error:  # a name that is too long; one with a NUL
        raise JobError(f"{target} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    try:
        _lock(file, target)
    except JobError:
        file.close()
        raise
    return file


def _write(file: FileIO, target: Path, document: Mapping[str, Any]) -> None:
    line = memoryview(json.dumps(document, ensure_ascii=False).encode() + b"\n")
    try:
        while line:  # of a disk that is nearly full, a part
            line = line[file.write(line) :]
    except OSError as error:
        raise JobError(f"{target} cannot be written: {error.strerror or error}; go on with the same command") from error


def _lock(file: FileIO, target: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows, where the user has to see to it
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise JobError(f"{target} is being written by another process; wait for it, or name another OUTPUT") from error


def _answers(file: FileIO, target: Path) -> dict[str, str]:
    """The digest of each id that is answered; a last line that was cut in the middle is cut off."""
    answers: dict[str, str] = {}
    whole = 0
    file.seek(0)
    start = file.read(len(START)) or b""
    if not start.startswith(START[: len(start)]):  # which may be one line of gigabytes
        raise JobError(f"{target} has a line 1 that no batch wrote; {REMEDY}")
    file.seek(0)
    reader = BufferedReader(file)
    for number, text in enumerate(reader, 1):
        try:
            if not text.endswith(b"\n"):
                if not text.startswith(START[: len(text)]) or _anothers(text):
                    raise ValueError
                break
            document = json.loads(text)
            answers[json.dumps(document["id"])] = document["digest"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise JobError(f"{target} has a line {number} that no batch wrote; {REMEDY}") from error
        whole += len(text)
    reader.detach()
    file.truncate(whole)
    return answers


def _anothers(text: bytes) -> bool:
    """Whether a line without an end is whole, and no answer: not one of ours that was cut."""
    try:
        return "digest" not in json.loads(text)
    except ValueError:
        return False
    except RecursionError:
        return True
