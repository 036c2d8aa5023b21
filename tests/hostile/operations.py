"""Counts every operation by which Python code changes files, and makes the k-th of them go wrong.

Reaches further than `tests.unit.bundle.faults`: also files that libraries open, and each write of their buffers.
"""

from __future__ import annotations

import builtins
import io
import os
import signal
from collections.abc import Callable
from typing import Any

from helium_edge import durable


class Operations:
    """Installs itself for the rest of the process.

    Args:
        at: The operation, counted from 1, at which something happens; 0 only counts.
        what: The number of an error, or `kill`, `interrupt`, `terminate`.
        lasting: Whether all later operations fail as well.
    """

    def __init__(self, at: int = 0, what: int | str = 0, *, lasting: bool = False) -> None:
        self.count = 0
        self.struck = ""
        self.renames: list[tuple[str, str]] = []
        self._at, self._what, self._lasting = at, what, lasting
        for name in ("write", "fsync", "mkdir"):
            setattr(os, name, self._wrap(getattr(os, name)))
        for name in ("rename", "replace"):
            setattr(os, name, self._wrap(getattr(os, name), self._record))
        renameat2 = durable._renameat2()
        if renameat2 is not None:
            wrapped = self._wrap(renameat2, lambda source, target, flags: self._record(source, target))
            durable._renameat2 = lambda: wrapped  # type: ignore[assignment]
        builtins.open = io.open = self._open  # type: ignore[assignment]

    def tick(self, name: str) -> None:
        """One operation is about to happen."""
        self.count += 1
        due = self.count == self._at or (self._lasting and 0 < self._at <= self.count)
        if not due:
            return
        self.struck = self.struck or name
        if isinstance(self._what, int):
            raise OSError(self._what, os.strerror(self._what))
        number = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}[self._what]
        os.kill(os.getpid(), number)

    def _wrap(self, function: Callable[..., Any], record: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.tick(function.__name__)
            if record is not None:
                record(*arguments)
            return function(*arguments, **named)

        return wrapped

    def _record(self, source: Any, target: Any) -> None:
        self.renames.append((os.fsdecode(source), os.fsdecode(target)))

    def _open(
        self, file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
        newline: Any = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        operations = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> Any:
                operations.tick("write")
                return super().write(data)

            def truncate(self, size: Any = None) -> Any:
                operations.tick("truncate")
                return super().truncate(size)

        if not set(mode) & set("wxa+"):
            return _REAL_OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


_REAL_OPEN = io.open
