"""A token's bytes as something that can be seen: spaces, newlines, control characters and halves of characters too."""

from __future__ import annotations

import unicodedata
from typing import Literal

Kind = Literal["text", "space", "byte", "code"]
Glyph = tuple[Kind, str]

SPACES = {" ": "·", "\n": "↵", "\t": "⇥"}
RAW_BYTES = range(0xDC80, 0xDD00)  # where surrogateescape puts a byte that belongs to no character


def glyphs(token_bytes: bytes) -> list[Glyph]:
    """What to show of a token, run by run.

    "text" is shown as it is, "space" is a sign for white space, "byte" two hex digits for a byte that is no character
    alone, "code" the code point of a character that cannot be seen, or that would turn the line around it.

    >>> glyphs(b" the"), glyphs(b"\\n\\n")
    ([('space', '·'), ('text', 'the')], [('space', '↵↵')])
    >>> glyphs("é".encode()[:1]), glyphs("a\\u202e".encode())
    ([('byte', 'C3')], [('text', 'a'), ('code', 'U+202E')])
    """
    found: list[Glyph] = []
    for character in token_bytes.decode("utf-8", "surrogateescape"):
        kind, shown = _glyph(character, first=not found)
        if found and found[-1][0] == kind and kind in ("text", "space"):
            found[-1] = kind, found[-1][1] + shown
        else:
            found.append((kind, shown))
    return found


def _glyph(character: str, *, first: bool) -> Glyph:
    if character in SPACES:
        return "space", SPACES[character]
    if ord(character) in RAW_BYTES:
        return "byte", f"{ord(character) - 0xDC00:02X}"
    if not character.isprintable():  # nor is any other white space
        return "code", f"U+{ord(character):04X}"
    if first and unicodedata.category(character).startswith("M"):  # it would sit on what stands before the token
        return "text", "◌" + character
    return "text", character
