"""A setting: one row, from which the library's keyword, the name in JSON and the command's option are derived.

A config is a frozen dataclass whose fields are made by `setting`. Its `__post_init__` calls `check_settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is to be known of a setting.

    Attributes:
        name: of the keyword and in JSON, and of the option with dashes unless `option` has another.
        default: what holds where it is not given. Where that is None, None is allowed and means the same.
        check: (name, value) -> the value as it is kept; SettingError where it is out of range.
        kind: the type of its value: int, float, str, bool or dict; of each value where it has `many`.
        help: what the command shows, a sentence.
        many: whether it is a list, whose option can be repeated.
        choices: the values that it can have; none where they are not words.
        shown_default: the default as the command shows it; None shows none.
        option: the name of the option where it is another than the setting's; "" for none.
        metavar: what stands for the option's value in the command's help.
        of_text: whether only what has a tokenizer can heed it.
    """

    name: str
    default: Any
    check: Callable[[str, Any], Any]
    kind: type
    help: str
    many: bool = False
    choices: tuple[str, ...] = ()
    shown_default: str | None = None
    option: str | None = None
    metavar: str | None = None
    of_text: bool = False


def setting(default: T, check: Callable[[str, Any], Any], *, kind: type, help: str, **more: Any) -> T:
    """The field of a dataclass that is a setting; `more` is of `Setting`."""
    return field(default=default, metadata={"check": check, "kind": kind, "help": help, **more})


@cache
def settings_of(config: Hashable) -> tuple[Setting, ...]:
    """The rows of a config's settings, in the order of its fields.

    >>> from gpt2_runtime import SamplingConfig
    >>> [row.name for row in settings_of(SamplingConfig)][:2]
    ['temperature', 'top_k']
    """
    return tuple(
        Setting(name=each.name, default=each.default, **each.metadata)
        for each in fields(cast(Any, config))
        if each.metadata
    )


def check_settings(config: Any) -> None:
    """Checks each setting of a config that is being made; what a caller may go on to change is copied.

    Raises:
        SettingError: a value is out of range.
    """
    for row in settings_of(cast(Hashable, type(config))):
        value = getattr(config, row.name)
        if value is not None or row.default is not None:
            object.__setattr__(config, row.name, row.check(row.name, value))
