"""One JSON object of a file, whose fields are asked for by name and type."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gpt2_runtime.errors import BundleError

REMEDY = "the folder is damaged or was edited; export it again"


def read_bytes(path: Path) -> bytes:
    """The bytes of a file of the folder; a BundleError that names the file when they cannot be had."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """The UTF-8 text of a file of the folder, without a byte order mark; a BundleError names the file and the byte."""
    try:
        return read_bytes(path).decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not UTF-8 at byte {error.start}; {REMEDY}") from error


@dataclass(frozen=True, kw_only=True)
class Document:
    """A JSON object and where it stands, so that every complaint about it can say so.

    A field of another type than the one asked for is a BundleError; so is an absent one, except in `get`.

    >>> document = Document(where="config.json", fields={"n_layer": 12, "source": {"name": "gpt2"}})
    >>> document.integer("n_layer", minimum=1)
    12
    >>> document.document("source").text("name")
    'gpt2'
    >>> document.text("n_layer")
    Traceback (most recent call last):
    ...
    gpt2_runtime.errors.BundleError: config.json: n_layer is 12, not text; the folder is damaged or was edited; \
export it again
    """

    where: str
    fields: Mapping[str, object]

    @classmethod
    def read(cls, path: Path) -> Document:
        """The JSON object in `path`; BundleError with the position where it is not one."""
        return cls.parsed(read_text(path), path)

    @classmethod
    def parsed(cls, text: str, path: Path) -> Document:
        """The JSON object of a text that stood in `path`; errors are those of `read`."""
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            at = f"line {error.lineno}, column {error.colno}"
            raise BundleError(f"{path} is not JSON at {at}: {error.msg}; {REMEDY}") from error
        except (RecursionError, ValueError) as error:  # thousands of brackets; an integer of thousands of digits
            raise BundleError(f"{path} is not JSON that can be read: {type(error).__name__}; {REMEDY}") from error
        if not isinstance(value, dict):
            raise BundleError(f"{path} holds {_shown(value)}, not a JSON object; {REMEDY}")
        return cls(where=str(path), fields=value)

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def get(self, name: str) -> object:
        """The field as JSON gave it, None where it is absent."""
        return self.fields.get(name)

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        return value if isinstance(value, str) else self.refuse(name, "text")

    def integer(self, name: str, *, minimum: int = 0) -> int:
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            self.refuse(name, f"an integer of at least {minimum}")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.fields.get(name, default)
        return value if isinstance(value, bool) else self.refuse(name, "true or false")

    def items(self, name: str) -> list[object]:
        value = self.fields.get(name)
        return value if isinstance(value, list) else self.refuse(name, "a list")

    def document(self, name: str) -> Document:
        value = self.fields.get(name)
        if not isinstance(value, dict):
            self.refuse(name, "an object")
        return Document(where=f"{self.where}: {name}", fields=value)

    def refuse(self, name: str, wanted: str) -> NoReturn:
        """Raises the BundleError that says what `name` holds and what was wanted there."""
        held = _shown(self.fields[name]) if name in self.fields else "absent"
        raise BundleError(f"{self.where}: {name} is {held}, not {wanted}; {REMEDY}")


def _shown(value: object) -> str:
    written = json.dumps(value)
    return written if len(written) <= 60 else written[:57] + "..."
