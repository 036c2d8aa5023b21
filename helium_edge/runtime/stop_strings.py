"""Ends a text at the first of some strings, while the text comes in pieces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from helium_edge.errors import UsageError


class StopStrings:
    """Cuts a text before the first stop string; what may be the beginning of one is held back until that is known.

    A stop string may begin in the prompt, and may spell special tokens, which no text shows, as in transformers
    (5.24, `StopStringCriteria`).

    Args:
        strings: Texts that end it; with none, everything passes.
        before: The end of what stands in front; a stop string ends behind it.

    Attributes:
        found: Whether one of them came; there is no text after it.

    Raises:
        UsageError: One of them is empty.
    """

    def __init__(self, strings: Sequence[str], before: str = "") -> None:
        if not all(strings):
            raise UsageError("a stop string is empty", hint="leave it out")
        self._strings = tuple(strings)
        self._held = before
        self._shown = [False] * len(before)
        self._old = len(before)
        self.found = False

    def push(self, text: str, *, shown: bool = True) -> str:
        """Add text and return what can be shown now; text that is not shown counts for stop strings alone."""
        if not self._strings:
            return text if shown else ""
        if self.found:
            return ""
        self._held += text
        self._shown += [shown] * len(text)
        found = (self._held.find(string, max(0, self._old + 1 - len(string))) for string in self._strings)
        starts = [start for start in found if start >= 0]
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
        text = "".join(itertools.compress(self._held[:count], self._shown))
        self._held, self._shown = self._held[count:], self._shown[count:]
        self._old = max(0, self._old - count)
        return text
