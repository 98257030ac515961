"""Stop strings in streamed text: text that may be the start of one is held back until that is certain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from gpt2_runtime.arguments import check_texts

# Each character of a text is compared with each stop string.
MOST_STOPS = 256
MOST_STOP_LENGTH = 1000  # characters


class StopStrings:
    """Lets text through up to the first stop string, and drops that string and everything after it.

    The first is the one that is complete first, since generation can stop there; if two end together, the longer one.
    The result does not depend on how the text is cut into pieces.

    Args:
        stops: any number of strings, none of them empty.

    Raises:
        SettingError: a stop string is empty, too long or not a string, or there are too many.

    >>> stops = StopStrings(["aab"])
    >>> stops.feed("xaa"), stops.feed("ab!"), stops.found
    ('x', 'a', 'aab')
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [_Matching(stop) for stop in dict.fromkeys(check_stops("stop", stops))]
        self._held = ""
        self._found: str | None = None

    @property
    def found(self) -> str | None:
        """The stop string that ended the text; None if none has."""
        return self._found

    def feed(self, text: str) -> str:
        """The text that cannot belong to a stop string; nothing after a stop string."""
        if self._found is not None:
            return ""
        if not self._stops:
            return text
        before = len(self._held)
        self._held += text
        for end, character in enumerate(text, before + 1):
            longest = max([stop.after(character) for stop in self._stops])
            whole = [stop.text for stop in self._stops if stop.matched == len(stop.text)]
            if whole:
                self._found = max(whole, key=len)
                return self._release(end - len(self._found), keep="")
        return self._release(len(self._held) - longest, keep=self._held[len(self._held) - longest :]) if text else ""

    def flush(self) -> str:
        """The text still held back, when the text ends without a stop string."""
        return self._release(len(self._held), keep="")

    def _release(self, count: int, *, keep: str) -> str:
        released, self._held = self._held[:count], keep
        return released


class _Matching:
    """How much of the start of one stop string the text ends with, by Knuth-Morris-Pratt, one step per character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._borders = _borders(text)

    def after(self, character: str) -> int:
        """The number of characters matched, after one more character."""
        while self.matched and self.text[self.matched] != character:
            self.matched = self._borders[self.matched - 1]
        self.matched += self.text[self.matched] == character
        return self.matched


@lru_cache(maxsize=MOST_STOPS)
def _borders(text: str) -> tuple[int, ...]:
    """For each prefix of a text, the length of its longest border. Cached: many continuations share them.

    >>> _borders("aabaa")
    (0, 1, 0, 1, 2)
    """
    borders = [0]
    for character in text[1:]:
        length = borders[-1]
        while length and text[length] != character:
            length = borders[length - 1]
        borders.append(length + (text[length] == character))
    return tuple(borders)


def check_stops(parameter: str, value: object) -> tuple[str, ...]:
    """Raises SettingError unless this is a list of stop strings, not too many and not too long."""
    return check_texts(parameter, "stop string", value, most=MOST_STOPS, longest=MOST_STOP_LENGTH)
