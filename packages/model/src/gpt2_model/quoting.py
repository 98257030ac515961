"""Quotes names and values from files in messages: short, few, and safe for a terminal."""

from collections.abc import Collection
from typing import Any

LONGEST = 60  # characters of a value
MOST = 3  # names of many


def shown(value: object) -> str:
    """A value's repr, cut if it is long.

    >>> shown("x\\n"), len(shown("x" * 1000))
    ("'x\\\\n'", 60)
    """
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def name_shown(name: str) -> str:
    """A name without quotes, unless it needs them.

    >>> name_shown("h.0.ln_1.bias"), name_shown("a\\tb")
    ('h.0.ln_1.bias', "'a\\\\tb'")
    """
    return name if name.isprintable() and name.strip() == name != "" and len(name) <= LONGEST else shown(name)


def listed(names: Collection[str], most: int = MOST) -> str:
    """The first few names, and the number of the rest.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    first = [name_shown(name) for name in list(names)[:most]]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")


def escaped(text: str, keep: str = "") -> str:
    """Untrusted text on one line, without terminal control characters; those in `keep` stay.

    >>> print(escaped("GPT\\n\\x1b[2J-2 é"))
    GPT\\n\\x1b[2J-2 é
    """
    return "".join(each if each.isprintable() or each in keep else ascii(each)[1:-1] for each in text)


def all_escaped(document: Any) -> Any:
    """A JSON value with every name and string `escaped`.

    >>> all_escaped({"name": ["a\\tb", 1]})
    {'name': ['a\\\\tb', 1]}
    """
    if isinstance(document, str):
        return escaped(document)
    if isinstance(document, dict):
        return {all_escaped(name): all_escaped(value) for name, value in document.items()}
    return [all_escaped(each) for each in document] if isinstance(document, list | tuple) else document
