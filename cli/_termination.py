"""SIGTERM, and SIGHUP of a terminal that went away, end a command as Ctrl-C does: nothing half-written stays.

The exit code tells them apart: 128 and the number of the signal, as shells count.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


_SIGNALS = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Terminated(KeyboardInterrupt):
    """The signal came; unlike Ctrl-C it is never taken for something smaller, as the end of an answer."""


class Termination:
    """While it is entered, such a signal raises `Terminated`; a second one ends the process at once.

    Outside the main thread, where no handler may be set, and where the caller has a handler of its own, as `nohup`
    has, it does nothing.

    Attributes:
        came: Number of the signal that arrived; 0 before.
    """

    def __init__(self) -> None:
        self.came = 0
        self._installed: list[int] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._interrupt)
                    self._installed.append(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reset()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what handlers are given
        self.came = number
        self._reset()
        raise Terminated

    def _reset(self) -> None:
        while self._installed:
            signal.signal(self._installed.pop(), signal.SIG_DFL)
