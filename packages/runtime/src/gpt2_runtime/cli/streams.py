"""Standard input and output, as the commands read and write them: whole, in UTF-8, or an error in one line."""

from __future__ import annotations

import codecs
import json
import sys
from typing import BinaryIO

import click

from gpt2_runtime.errors import Gpt2RuntimeError, PromptError


def standard_input() -> BinaryIO:
    """The bytes of standard input, which a process may have been started without."""
    if sys.stdin is None:
        raise PromptError("standard input is closed; pipe a text into it, or name a file")
    return sys.stdin.buffer


def utf8(data: bytes, name: str = "standard input") -> str:
    """The text of bytes that must be UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PromptError(f"{name} is not UTF-8 at byte {error.start}; convert it, e.g. with iconv") from error


def check_output() -> None:
    """Refuses to work for nothing, where a process was started without standard output."""
    if sys.stdout is None:
        raise Gpt2RuntimeError("standard output is closed; open it, or send it to a file")


def print_json(document: object) -> None:
    """One line, which is JSON in any encoding: what that may lack is written as \\u and its number."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    click.echo(json.dumps(document, ensure_ascii=codecs.lookup(encoding).name != "utf-8"))
