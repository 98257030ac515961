"""The one place where arguments are checked: each check returns the value, or raises an error of one line.

An error has the parameter's name and its value as attributes, so that a program need not read the sentence. What no
check here knows, because it needs the model or another argument, is raised where it is found, by `invalid`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar, cast

import numpy as np

from gpt2_runtime.errors import SettingError, shown, shown_json

Kind = TypeVar("Kind")
LONGEST_NAME = 100  # characters of a name that is compared with those that there are


def invalid(parameter: str, value: object, limit: str, remedy: str = "") -> SettingError:
    """The error of a value: what, the value, the limit, the remedy.

    >>> error = invalid("rows", 0, "must be an integer from 1 to 64", "leave it out for 8")
    >>> print(error)
    rows is 0, must be an integer from 1 to 64; leave it out for 8
    >>> error.parameter, error.value
    ('rows', 0)
    """
    told = f"{parameter} is {shown(value)}, {limit}"
    return SettingError(f"{told}; {remedy}" if remedy else told, parameter=parameter, value=value)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether it is an integer: True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is an integer or a float, not a number or infinite perhaps; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_integer(
    parameter: str, value: object, least: int, most: int | None = None, *, why: str = "", remedy: str = ""
) -> int:
    """SettingError for what is no integer of at least `least` and at most `most`.

    Args:
        parameter: its name.
        value: of any type.
        least, most: the limits, both allowed; None is no limit.
        why: what the upper limit comes from, put after it.
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
    """SettingError for what is no number from `least` to `most`; where `above`, `least` itself is refused too.

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
    """SettingError for a value of another type.

    >>> check_type("session", 5, str)
    Traceback (most recent call last):
    ...
    gpt2_runtime.errors.SettingError: session is 5, must be a str
    """
    if not isinstance(value, kind):
        raise invalid(parameter, value, f"must be a {kind.__name__}", remedy)
    return value


def check_flag(parameter: str, value: object) -> bool:
    """SettingError for what is neither True nor False: the text "no" would count as yes."""
    if not isinstance(value, bool):
        raise invalid(parameter, value, "must be True or False")
    return value


def check_choice(parameter: str, value: object, choices: Collection[str], remedy: str = "") -> str:
    """SettingError for what is none of the choices.

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
    """SettingError for what is no list of at most `most` strings, each of 1 to `longest` characters."""
    if isinstance(value, str):  # a sequence of its letters, which no caller means
        raise invalid(parameter, value, "must be a list of strings", f"write [{shown_json(value)}]")
    if not isinstance(value, list | tuple):
        raise invalid(parameter, value, "must be a list of strings", "leave it out for none")
    if len(value) > most:
        told = f"{parameter} has {len(value):,} strings, must have at most {most:,}; leave some out"
        raise SettingError(told, parameter=parameter, value=value)
    for text in value:
        told = f"{each} is {shown(text)}, must be text of at least one character"
        if isinstance(text, str) and len(text) > longest:
            told = f"{each} has {len(text):,} characters, must have at most {longest:,}; shorten it: {shown(text)}"
        elif isinstance(text, str) and text:
            continue
        raise SettingError(told, parameter=parameter, value=value)
    return tuple(value)


def is_list(value: object, kind: type = Sequence) -> bool:
    """Whether it is a sequence (or a `kind`) of things in one dimension, arrays included: a text is none.

    >>> is_list([1]), is_list("ab"), is_list({1}), is_list({1}, Collection)
    (True, False, False, True)
    """
    if isinstance(value, np.ndarray):
        return value.ndim == 1
    return isinstance(value, kind) and not isinstance(value, str | bytes | bytearray)


def check_ids(parameter: str, value: object, remedy: str = "") -> frozenset[int]:
    """The integers of a collection in one dimension, an array's too; SettingError for anything else."""
    if is_list(value, Collection):
        ids = list(cast(Collection[Any], value))
        if all(is_integer(id_) or isinstance(id_, np.integer) for id_ in ids):
            return frozenset(map(int, ids))
    raise invalid(parameter, value, "must be a list of integers", remedy)


def check_names(given: Mapping[str, object], known: Collection[str], written: Callable[[object], str] = shown) -> None:
    """SettingError for a name that no setting has, with the one that was probably meant.

    >>> check_names({"temprature": 0.5}, ("seed", "temperature"))
    Traceback (most recent call last):
    ...
    gpt2_runtime.errors.SettingError: unknown setting 'temprature'; did you mean 'temperature'?
    """
    for name, value in given.items():
        if name not in known:
            from difflib import get_close_matches  # which nothing but a typing error needs

            close = get_close_matches(name, known, n=1) if isinstance(name, str) and len(name) <= LONGEST_NAME else []
            remedy = f"did you mean {written(close[0])}?" if close else f"expected one of {', '.join(known)}"
            raise SettingError(f"unknown setting {written(name)}; {remedy}", parameter=str(name), value=value)
