"""How names and values of files are shown in a message: short, few, and nothing that moves a terminal's cursor."""

from collections.abc import Collection

LONGEST = 60  # characters of a value
MOST = 3  # names of many


def shown(value: object) -> str:
    """A value as Python writes it, cut where it is long.

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
    """The first few of many names, and the number of the others.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    first = [name_shown(name) for name in list(names)[:most]]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")
