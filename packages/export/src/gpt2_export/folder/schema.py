"""What a JSON document must hold, field by field: checks that are put together like the document itself.

>>> check = record(name=text, sizes=table(whole))
>>> check("x.json", {"name": "a", "sizes": {"b": 1, "c": -1}})
Traceback (most recent call last):
ValueError: x.json: sizes: c is -1, must be a whole number from 0 to below 2**63
"""

import json
import re
from collections.abc import Callable, Collection
from typing import Any, NoReturn

Check = Callable[[str, Any], None]
"""(where it stands, the value); raises ValueError, which says both and what must be there."""

LARGEST = 2**63
ABSENT = object()


def text(where: str, value: Any) -> None:
    """Any text."""
    if not isinstance(value, str):
        refuse(where, value, "text")


def sha256(where: str, value: Any) -> None:
    """A hash in hexadecimal."""
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        refuse(where, value, "64 hexadecimal digits")


def whole(where: str, value: Any) -> None:
    """A size or a count."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < LARGEST:
        refuse(where, value, "a whole number from 0 to below 2**63")


def anything(where: str, value: Any) -> None:
    """Whatever it is, a number of it is one that can be printed."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        anything(where, inner)
    if isinstance(value, int) and abs(value) >= LARGEST:
        refuse(where, value, "a number of below 2**63")


def optional(check: Check) -> Check:
    """null, or what `check` says."""

    def checked(where: str, value: Any) -> None:
        if value is not None:
            check(where, value)

    return checked


def items(check: Check) -> Check:
    """A list, each of it as `check` says."""

    def checked(where: str, value: Any) -> None:
        if not isinstance(value, list):
            refuse(where, value, "a list")
        for number, each in enumerate(value):
            check(inside(where, str(number)), each)

    return checked


def table(check: Check, name: Check = text) -> Check:
    """An object of any names, each as `name` says, and each value as `check` does."""

    def checked(where: str, value: Any) -> None:
        if not isinstance(value, dict):
            refuse(where, value, "an object")
        for key, each in value.items():
            name(f"{where}: a name", key)
            check(inside(where, key), each)

    return checked


def record(**fields: Check) -> Check:
    """An object with these fields; others may be there, and their numbers can be printed too."""

    def checked(where: str, value: Any) -> None:
        if not isinstance(value, dict):
            refuse(where, value, "an object")
        for name, check in fields.items():
            check(inside(where, name), value.get(name, ABSENT))
        anything(where, value)

    return checked


def one_of(allowed: Collection[Any]) -> Check:
    """One of these values."""

    def checked(where: str, value: Any) -> None:
        if value is ABSENT or type(value) not in (str, int) or value not in allowed:
            refuse(where, value, " or ".join(map(repr, allowed)))

    return checked


def inside(where: str, name: str) -> str:
    """Where a part of something stands."""
    return f"{where}: {name if name.isprintable() and len(name) <= 100 else ascii(name)[:100]}"


def refuse(where: str, value: Any, wanted: str) -> NoReturn:
    """Raises ValueError that says what is there and what must be."""
    shown = "absent" if value is ABSENT else json.dumps(value, ensure_ascii=True)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    raise ValueError(f"{where} is {shown}, must be {wanted}")
