"""Ends a text at the first of some strings, while the text comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence

from helium_edge.errors import UsageError


class StopStrings:
    """Cuts a text before the first stop string; what may be the beginning of one is held back until that is known.

    Args:
        strings: Texts that end it; with none, everything passes.

    Attributes:
        found: Whether one of them came; there is no text after it.

    Raises:
        UsageError: One of them is empty.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        if not all(strings):
            raise UsageError("a stop string is empty", hint="leave it out")
        self._strings = tuple(strings)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Add text and return what can be shown now."""
        if not self._strings:
            return text
        if self.found:
            return ""
        self._held += text
        starts = [start for start in (self._held.find(string) for string in self._strings) if start >= 0]
        if starts:
            self.found = True
            return self._take(min(starts))
        return self._take(len(self._held) - self._beginning())

    def finish(self) -> str:
        """Return the rest, which is no stop string any more."""
        return "" if self.found else self._take(len(self._held))

    def _beginning(self) -> int:
        """Length of the longest end of the text with which a stop string begins."""
        longest = min(len(self._held), max(len(string) for string in self._strings) - 1)
        lengths = range(longest, 0, -1)
        return next((n for n in lengths if any(s.startswith(self._held[-n:]) for s in self._strings)), 0)

    def _take(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text
