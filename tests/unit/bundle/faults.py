"""Makes the k-th file operation of publishing go wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from helium_edge import durable


class Faults:
    """Counts writes, syncs, renames and folders made; at the k-th of them `strike` is called instead.

    Args:
        patch: Where to install.
        at: k, counted from 1; 0 only counts.
        strike: What happens; it may raise, or end the process.
        after: Whether the operation is done first.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, at: int, strike: Callable[[], None], *, after: bool = False
    ) -> None:
        self.count = 0
        self._at, self._strike, self._after = at, strike, after
        for name in ("write", "fsync", "rename", "mkdir"):
            patch.setattr(os, name, self._wrap(getattr(os, name)))
        renameat2 = durable._renameat2()
        patch.setattr(durable, "_renameat2", lambda: renameat2 and self._wrap(renameat2))

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            due = self.count == self._at
            if due and not self._after:
                self._strike()
            result = function(*arguments, **named)
            if due:
                self._strike()
            return result

        return wrapped
