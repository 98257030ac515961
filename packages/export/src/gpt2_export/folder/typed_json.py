"""JSON <-> frozen dataclasses: a field is declared once, and its annotation defines the valid values.

>>> @dataclass(frozen=True, kw_only=True)
... class Sized:
...     name: str
...     sizes: Mapping[str, Whole]
>>> read(Sized, "x.json", {"name": "a", "sizes": {"b": 1}})
Sized(name='a', sizes={'b': 1})
>>> read(Sized, "x.json", {"name": "a", "sizes": {"b": 1, "c": -1}})
Traceback (most recent call last):
ValueError: x.json: sizes: c is -1, must be a whole number from 0 to below 2**63
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, NoReturn, Required, TypeVar, get_args, get_origin, get_type_hints, is_typeddict

T = TypeVar("T")
Check = Callable[[str, Any], None]
"""(path of the field, its value) -> None; raises ValueError with both and the valid values."""

LARGEST = 2**63
ABSENT = object()


def read(kind: type[T], where: str, value: Any) -> T:
    """A JSON value as a dataclass, a TypedDict, `str`, `Annotated[..., check]`, and combinations of these.

    An object becomes a dataclass or a Mapping, a list a tuple. A field with a default may be absent. A TypedDict stays
    the dict that it is, and only its Required fields are checked: reports of other versions have other figures.

    Raises:
        ValueError: the value is invalid; the message starts with `where`.
    """
    result: T = _read(kind, where, value)
    return result


def plain(value: Any) -> Any:
    """The JSON of a value, with fields in the order of their declaration."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


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


Whole = Annotated[int, whole]
Sha256 = Annotated[str, sha256]


def one_of(allowed: Collection[Any]) -> Check:
    """One of these values."""

    def checked(where: str, value: Any) -> None:
        if value is ABSENT or type(value) not in (str, int) or value not in allowed:
            refuse(where, value, " or ".join(map(repr, allowed)))

    return checked


def inside(where: str, name: str) -> str:
    """The path of a part of a value."""
    return f"{where}: {name if name.isprintable() and len(name) <= 100 else ascii(name)[:100]}"


def refuse(where: str, value: Any, expected: str) -> NoReturn:
    """Raises ValueError with the actual and the expected value."""
    shown = "absent" if value is ABSENT else json.dumps(value, ensure_ascii=True)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    raise ValueError(f"{where} is {shown}, must be {expected}")


def _read(kind: Any, where: str, value: Any) -> Any:
    form, parts = get_origin(kind), get_args(kind)
    if is_dataclass(kind) or is_typeddict(kind):
        return _record(kind, where, value)
    if form is UnionType:  # X | None
        return None if value is None else _read(next(part for part in parts if part is not NoneType), where, value)
    if form is tuple:
        if not isinstance(value, list):
            refuse(where, value, "a list")
        return tuple(_read(parts[0], inside(where, str(number)), each) for number, each in enumerate(value))
    if form is Mapping:
        name, each = parts
        return _table(name, each, where, value)
    check: Check = text if kind is str else parts[1]  # of Annotated
    check(where, value)
    return value


def _table(name: Any, kind: Any, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        refuse(where, value, "an object")
    found = {}
    for key, each in value.items():
        _read(name, f"{where}: a name", key)
        found[key] = _read(kind, inside(where, key), each)
    return found


def _record(kind: Any, where: str, value: Any) -> Any:
    """An object with these fields; others are allowed if their numbers can be printed."""
    if not isinstance(value, dict):
        refuse(where, value, "an object")
    found = {}
    for name, each in _fields(kind).items():
        if name in value or not each.may_be_absent:
            found[name] = _read(each.kind, inside(where, name), value.get(name, ABSENT))
    _refuse_unprintable(where, value)
    return value if is_typeddict(kind) else kind(**found)


@dataclass(frozen=True, kw_only=True)
class _Field:
    kind: Any
    may_be_absent: bool


@cache
def _fields(kind: Any) -> dict[str, _Field]:
    """The fields of a dataclass or a TypedDict to check."""
    hints = get_type_hints(kind, include_extras=True)
    if is_typeddict(kind):
        required = {name: get_args(hint)[0] for name, hint in hints.items() if get_origin(hint) is Required}
        return {name: _Field(kind=hint, may_be_absent=False) for name, hint in required.items()}
    return {
        each.name: _Field(
            kind=hints[each.name],
            may_be_absent=each.default is not MISSING or each.default_factory is not MISSING,
        )
        for each in fields(kind)
    }


def _refuse_unprintable(where: str, value: Any) -> None:
    """Refuses integers of thousands of digits, which Python does not print."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_unprintable(where, inner)
    if isinstance(value, int) and abs(value) >= LARGEST:
        refuse(where, value, "a number of below 2**63")
