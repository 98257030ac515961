"""A JSON object of a file, with typed access to its fields."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gpt2_runtime.errors import BundleError
from gpt2_runtime.folder.regular_file import FileState, read_regular

REMEDY = "the folder is damaged or was edited; export it again"
MOST_TEXT_BYTES = 24 * 2**20  # for a JSON file or a list of merges; GPT-2's tokenizer.json has 3.6 MB
MOST_INTEGER = 2**63 - 1
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # an escape of half a surrogate pair


def read_text(path: Path, most: int = MOST_TEXT_BYTES, expected: FileState | None = None) -> str:
    """The UTF-8 text of a file of the folder, without a byte order mark; a BundleError names the file and the byte.

    For `most` and `expected` see `read_regular`.
    """
    return decoded(read_regular(path, most, expected), path)


def decoded(data: bytes, path: Path) -> str:
    """The same for bytes that were read from `path`."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not UTF-8 at byte {error.start}; {REMEDY}") from error


def read_json(where: str, text: str) -> dict[str, object]:
    """The JSON object in `text`.

    Raises:
        BundleError: starting with `where`: it is not JSON, not an object, too deep, has a duplicate name, or has half a
            surrogate pair, which UTF-8 cannot encode.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once)
        if HALF_PAIR.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise BundleError(f"{where} is not JSON at {at}: {error.msg}; {REMEDY}") from error
    except _DuplicateNameError as twice:
        raise BundleError(f"{where} has {_shown(twice.args[0])} twice; {REMEDY}") from twice
    except UnicodeEncodeError as error:
        raise BundleError(f"{where} has {error.object[error.start]!a}, half a surrogate pair; {REMEDY}") from error
    except (RecursionError, ValueError) as error:  # thousands of brackets, or an integer of thousands of digits
        raise BundleError(f"{where} is not readable JSON: {type(error).__name__}; {REMEDY}") from error
    if not isinstance(value, dict):
        raise BundleError(f"{where} holds {_shown(value)}, not a JSON object; {REMEDY}")
    return value


class _DuplicateNameError(Exception):
    """A name that occurs twice in an object: readers differ in which one they use."""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise _DuplicateNameError(next(name for name, count in names.items() if count > 1))
    return fields


@dataclass(frozen=True, kw_only=True)
class JsonObject:
    """A JSON object and its location, which every error about it names.

    A field that is absent or of another type raises a BundleError, except in `get`.

    >>> config = JsonObject(where="config.json", fields={"n_layer": 12, "source": {"name": "gpt2"}})
    >>> config.integer("n_layer", minimum=1)
    12
    >>> config.object("source").text("name")
    'gpt2'
    >>> config.text("n_layer")
    Traceback (most recent call last):
    ...
    gpt2_runtime.errors.BundleError: config.json: n_layer is 12, not text; the folder is damaged or was edited; \
export it again
    """

    where: str
    fields: Mapping[str, object]

    @classmethod
    def read(cls, path: Path, most: int = MOST_TEXT_BYTES, expected: FileState | None = None) -> JsonObject:
        """The JSON object in `path`; a BundleError gives the position if it is not one."""
        return cls.parsed(read_text(path, most, expected), path)

    @classmethod
    def parsed(cls, text: str, path: Path) -> JsonObject:
        """The JSON object in a text that was read from `path`; raises the errors of `read`."""
        return cls(where=str(path), fields=read_json(str(path), text))

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def get(self, name: str) -> object:
        """The field as parsed; None if it is absent."""
        return self.fields.get(name)

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        return value if isinstance(value, str) else self.refuse(name, "text")

    def integer(self, name: str, *, minimum: int = 0, maximum: int = MOST_INTEGER) -> int:
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            self.refuse(name, f"an integer of at least {minimum}")
        return value if value <= maximum else self.refuse(name, f"an integer of at most {maximum}")

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.fields.get(name, default)
        return value if isinstance(value, bool) else self.refuse(name, "true or false")

    def items(self, name: str) -> list[object]:
        value = self.fields.get(name)
        return value if isinstance(value, list) else self.refuse(name, "a list")

    def object(self, name: str) -> JsonObject:
        value = self.fields.get(name)
        if not isinstance(value, dict):
            self.refuse(name, "an object")
        return JsonObject(where=f"{self.where}: {name}", fields=value)

    def refuse(self, name: str, expected: str) -> NoReturn:
        """Raises a BundleError with the value of `name` and the expected one."""
        held = _shown(self.fields[name]) if name in self.fields else "absent"
        raise BundleError(f"{self.where}: {name} is {held}, not {expected}; {REMEDY}")


def _shown(value: object) -> str:
    try:
        written = json.dumps(value)
    except (RecursionError, ValueError):  # almost too deep to parse, or an integer almost too long
        return f"{type(value).__name__} that is too long to show"
    return written if len(written) <= 60 else written[:57] + "..."
