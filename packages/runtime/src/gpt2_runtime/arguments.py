"""All argument checks: each returns the value, or raises an error of one line.

An error carries the parameter's name and value as attributes, so that a program need not parse the sentence. Checks
that need the model or another argument stay with the code that has them, and raise with `invalid`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar, cast

import numpy as np

from gpt2_runtime.errors import SettingError, shown, shown_json

Kind = TypeVar("Kind")
LONGEST_NAME = 100  # characters; a longer name is not compared with the known ones


def invalid(parameter: str, value: object, limit: str, remedy: str = "") -> SettingError:
    """An error that names the parameter, its value, the limit and the remedy.

    >>> error = invalid("rows", 0, "must be an integer from 1 to 64", "leave it out for 8")
    >>> print(error)
    rows is 0, must be an integer from 1 to 64; leave it out for 8
    >>> error.parameter, error.value
    ('rows', 0)
    """
    problem = f"{parameter} is {shown(value)}, {limit}"
    return SettingError(f"{problem}; {remedy}" if remedy else problem, parameter=parameter, value=value)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether it is an integer; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is an integer or a float, even NaN or infinite; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_integer(
    parameter: str, value: object, least: int, most: int | None = None, *, why: str = "", remedy: str = ""
) -> int:
    """Raises SettingError unless `value` is an integer from `least` to `most`.

    Args:
        parameter: its name.
        value: of any type.
        least, most: the limits, inclusive; None is no limit.
        why: where the upper limit comes from, appended to it.
        remedy: what to do instead.

    >>> check_integer("stride", 40, 1, 32, why=", the window")
    Traceback (most recent call last):
    ...
    gpt2_runtime.errors.SettingError: stride is 40, must be an integer from 1 to 32, the window
    """
    if not is_integer(value) or value < least or (most is not None and value > most):
        limit = f"of at least {least}" if most is None else f"from {least} to {most}{why}"
        raise invalid(parameter, value, f"must be an integer {limit}", remedy)
    return value


def check_number(
    parameter: str,
    value: object,
    least: float,
    most: float = sys.float_info.max,
    *,
    above: bool = False,
    remedy: str = "",
) -> float:
    """Raises SettingError unless `value` is a number from `least` to `most`; with `above`, `least` is refused too.

    >>> check_number("top_p", 0, 0, 1, above=True)
    Traceback (most recent call last):
    ...
    gpt2_runtime.errors.SettingError: top_p is 0, must be above 0 and at most 1
    """
    if not is_number(value) or not least <= value <= most or (above and value == least):
        if above:
            limit = f"above {least:g} and at most {most:g}"
        else:
            limit = "a number " + (
                f"from {least:g} to {most:g}" if most < sys.float_info.max else f"of at least {least:g}"
            )
        raise invalid(parameter, value, f"must be {limit}", remedy)
    return value


def check_type(parameter: str, value: object, kind: type[Kind], remedy: str = "") -> Kind:
    """Raises SettingError unless `value` is of this type.

    >>> check_type("session", 5, str)
    Traceback (most recent call last):
    ...
    gpt2_runtime.errors.SettingError: session is 5, must be a str
    """
    if not isinstance(value, kind):
        raise invalid(parameter, value, f"must be a {kind.__name__}", remedy)
    return value


def check_flag(parameter: str, value: object) -> bool:
    """Raises SettingError unless `value` is True or False: the text "no" would count as true."""
    if not isinstance(value, bool):
        raise invalid(parameter, value, "must be True or False")
    return value


def check_choice(parameter: str, value: object, choices: Collection[str], remedy: str = "") -> str:
    """Raises SettingError unless `value` is one of the choices.

    >>> check_choice("overflow", "cut", ("error", "truncate", "slide"))
    Traceback (most recent call last):
    ...
    gpt2_runtime.errors.SettingError: overflow is 'cut', must be 'error', 'truncate' or 'slide'
    """
    if not isinstance(value, str) or value not in choices:
        *others, last = map(repr, choices)
        raise invalid(parameter, value, f"must be {', '.join(others)} or {last}", remedy)
    return value


def check_texts(parameter: str, each: str, value: object, *, most: int, longest: int) -> tuple[str, ...]:
    """Raises SettingError unless `value` is a list of at most `most` strings, each of 1 to `longest` characters."""
    if isinstance(value, str):  # as a sequence it would be one string per letter
        raise invalid(parameter, value, "must be a list of strings", f"write [{shown_json(value)}]")
    if not isinstance(value, list | tuple):
        raise invalid(parameter, value, "must be a list of strings", "leave it out for none")
    if len(value) > most:
        problem = f"{parameter} has {len(value):,} strings, must have at most {most:,}; leave some out"
        raise SettingError(problem, parameter=parameter, value=value)
    for text in value:
        problem = f"{each} is {shown(text)}, must be text of at least one character"
        if isinstance(text, str) and len(text) > longest:
            problem = f"{each} has {len(text):,} characters, must have at most {longest:,}; shorten it: {shown(text)}"
        elif isinstance(text, str) and text:
            continue
        raise SettingError(problem, parameter=parameter, value=value)
    return tuple(value)


def is_list(value: object, kind: type = Sequence) -> bool:
    """Whether it is a one-dimensional sequence (or a `kind`), arrays included; a string is not.

    >>> is_list([1]), is_list("ab"), is_list({1}), is_list({1}, Collection)
    (True, False, False, True)
    """
    if isinstance(value, np.ndarray):
        return value.ndim == 1
    return isinstance(value, kind) and not isinstance(value, str | bytes | bytearray)


def check_ids(parameter: str, value: object, remedy: str = "") -> frozenset[int]:
    """The integers of a one-dimensional collection or array; SettingError for anything else."""
    if is_list(value, Collection):
        ids = list(cast(Collection[Any], value))
        if all(is_integer(id_) or isinstance(id_, np.integer) for id_ in ids):
            return frozenset(map(int, ids))
    raise invalid(parameter, value, "must be a list of integers", remedy)


def check_names(
    settings: Mapping[str, object], known: Collection[str], written: Callable[[object], str] = shown
) -> None:
    """Raises SettingError for an unknown setting, suggesting the closest known one.

    >>> check_names({"temprature": 0.5}, ("seed", "temperature"))
    Traceback (most recent call last):
    ...
    gpt2_runtime.errors.SettingError: unknown setting 'temprature'; did you mean 'temperature'?
    """
    for name, value in settings.items():
        if name not in known:
            from difflib import get_close_matches  # only needed for a typo

            close = get_close_matches(name, known, n=1) if isinstance(name, str) and len(name) <= LONGEST_NAME else []
            remedy = f"did you mean {written(close[0])}?" if close else f"expected one of {', '.join(known)}"
            raise SettingError(f"unknown setting {written(name)}; {remedy}", parameter=str(name), value=value)
