"""A visible form of a token's bytes, including spaces, newlines, control characters and parts of characters."""

from __future__ import annotations

import unicodedata
from typing import Literal

Kind = Literal["text", "space", "byte", "code"]
Glyph = tuple[Kind, str]

SPACES = {" ": "·", "\n": "↵", "\t": "⇥"}
RAW_BYTES = range(0xDC80, 0xDD00)  # how surrogateescape encodes a byte that belongs to no character


def glyphs(token_bytes: bytes) -> list[Glyph]:
    """The visible form of a token, run by run.

    "text" is shown unchanged, "space" is a symbol for white space, "byte" two hex digits for a byte that is only part
    of a character, "code" the code point of a character that is invisible or changes the direction of the line.

    >>> glyphs(b" the"), glyphs(b"\\n\\n")
    ([('space', '·'), ('text', 'the')], [('space', '↵↵')])
    >>> glyphs("é".encode()[:1]), glyphs("a\\u202e".encode())
    ([('byte', 'C3')], [('text', 'a'), ('code', 'U+202E')])
    """
    runs: list[Glyph] = []
    for character in token_bytes.decode("utf-8", "surrogateescape"):
        kind, text = _glyph(character, first=not runs)
        if runs and runs[-1][0] == kind and kind in ("text", "space"):
            runs[-1] = kind, runs[-1][1] + text
        else:
            runs.append((kind, text))
    return runs


def _glyph(character: str, *, first: bool) -> Glyph:
    if character in SPACES:
        return "space", SPACES[character]
    if ord(character) in RAW_BYTES:
        return "byte", f"{ord(character) - 0xDC00:02X}"
    if not character.isprintable():  # which includes all other white space
        return "code", f"U+{ord(character):04X}"
    if first and unicodedata.category(character).startswith("M"):  # a mark would combine with the text before the token
        return "text", "◌" + character
    return "text", character
