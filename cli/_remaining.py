"""How long a stage of work has left, by its last minute.

What an earlier run had done passes at once, and says nothing of the rest.
"""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 60.0
"""Of the work that tells the pace; a single step that took longer tells it alone."""


class Remaining:
    """The estimate of one stage.

    Args:
        total: How much there is to do; None where nobody knows.
        now: The time, in seconds.
    """

    def __init__(self, total: int | None, now: float) -> None:
        self._total = total
        self._marks = deque([(now, 0)])  # when how much was done
        self._last_step = 0

    def advance(self, amount: int, now: float) -> None:
        """Count `amount` as done."""
        marks = self._marks
        marks.append((now, marks[-1][1] + amount))
        self._last_step = amount
        while len(marks) > 2 and now - marks[1][0] >= WINDOW_SECONDS:
            marks.popleft()

    def seconds(self, now: float) -> float | None:
        """What is left, in seconds; None where nothing tells it."""
        (begin, before), (end, done) = self._marks[0], self._marks[-1]
        if not self._total or done == before:
            return None
        pace = (end - begin) / (done - before)
        if self._last_step:  # a step that takes longer than those before says so while it runs
            pace = max(pace, (now - end) / self._last_step)
        left = max(self._total - done, 0)
        # A step that takes longer than the last: there are the others still.
        return max(pace * left - (now - end), pace * max(left - self._last_step, 0))
