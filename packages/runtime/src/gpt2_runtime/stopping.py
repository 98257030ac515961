"""Stop strings over streamed text: what may be the start of one is held back until it is or is not."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2_runtime.errors import SettingError, shown


class StopStrings:
    """Lets text through up to the first stop string, which it swallows with all that follows.

    The first is the one that is whole first, since that is when generating can stop; of two that end together, the
    longer. How the text is cut into pieces changes nothing.

    Args:
        stops: none or several strings, none of them empty.

    Raises:
        SettingError: a stop string is empty or not a string.

    >>> stops = StopStrings(["aab"])
    >>> stops.feed("xaa"), stops.feed("ab!"), stops.found
    ('x', 'a', 'aab')
    """

    def __init__(self, stops: Sequence[str]) -> None:
        check_texts("stop", "stop string", stops)
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=1) - 1  # that can be held back
        self._held = ""
        self._found: str | None = None

    @property
    def found(self) -> str | None:
        """The stop string that was met, None so far."""
        return self._found

    def feed(self, text: str) -> str:
        """The text that is certain not to belong to a stop string; nothing once one was found."""
        if self._found is not None:
            return ""
        if not self._stops:
            return text
        self._held += text
        matches = [(at + len(stop), at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if matches:
            _, at, self._found = min(matches)
            return self._release(at, keep="")
        held = self._longest_start()
        return self._release(len(self._held) - held, keep=self._held[len(self._held) - held :])

    def flush(self) -> str:
        """What was held back, at the end of a text that no stop string ended."""
        return self._release(len(self._held), keep="")

    def _release(self, count: int, *, keep: str) -> str:
        released, self._held = self._held[:count], keep
        return released

    def _longest_start(self) -> int:
        """How many of the held characters may be the start of a stop string."""
        for count in range(min(self._longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-count:]) for stop in self._stops):
                return count
        return 0


def check_texts(name: str, each: str, given: object) -> None:
    """Refuses, as a SettingError, what is no list of strings, or has an empty one."""
    if isinstance(given, str):  # a sequence of its letters, which nobody means
        raise SettingError(f"{name} is {shown(given)}, must be a list of strings; write [{shown(given)}]")
    if not isinstance(given, list | tuple):
        raise SettingError(f"{name} is {shown(given)}, must be a list of strings; leave it out for none")
    for text in given:
        if not isinstance(text, str) or not text:
            raise SettingError(f"{each} is {shown(text)}, must be text of at least one character")
