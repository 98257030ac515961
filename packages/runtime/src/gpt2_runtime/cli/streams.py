"""Standard input and output, as the commands read and write them: whole, in UTF-8, or an error in one line."""

from __future__ import annotations

import codecs
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import click

from gpt2_runtime.errors import GPT2RuntimeError, PromptError, SettingError

MOST_PROMPT_BYTES = 4_000_000  # several hundred times what GPT-2 reads
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as PowerShell's > writes


def standard_input() -> BinaryIO:
    """The bytes of standard input, which a process may have been started without."""
    if sys.stdin is None:
        raise PromptError("standard input is closed; pipe a text into it, or name a file")
    return sys.stdin.buffer


def read_text(name: str, most: int = MOST_PROMPT_BYTES) -> str:
    """The text of a file, or of standard input for -: UTF-8, without a byte order mark, of limited size."""
    where = "standard input" if name == "-" else name
    try:
        with nullcontext(standard_input()) if name == "-" else Path(name).open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise PromptError(f"{where} cannot be read: {reason}; name a text file, or - for standard input") from error
    if len(data) > most:
        raise PromptError(f"{where} has more than {most:,} bytes, the most of a text; give a part of it")
    if data.startswith(UTF16):
        raise PromptError(f"{where} is UTF-16, must be UTF-8; convert it, e.g. with iconv -f UTF-16 -t UTF-8")
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise PromptError(f"{where} is not UTF-8 at byte {error.start}; convert it, e.g. with iconv") from error


def output_path(parameter: str, name: str) -> Path:
    """The file that a command writes; SettingError for -, which would pass for standard output.

    >>> output_path("OUTPUT", "./-").name
    '-'
    """
    if name == "-":
        raise SettingError(f"{parameter} is -, must be a file; name one, or give ./- for a file called -")
    return Path(name)


def check_output() -> None:
    """Refuses to work for nothing, where a process was started without standard output."""
    if sys.stdout is None:
        raise GPT2RuntimeError("standard output is closed; open it, or send it to a file")


def print_json(document: object) -> None:
    """One line, which is JSON in any encoding: what that may lack is written as \\u and its number."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    click.echo(json.dumps(document, ensure_ascii=codecs.lookup(encoding).name != "utf-8"))
