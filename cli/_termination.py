"""SIGTERM ends a command as Ctrl-C does: nothing half-written stays, and the exit code tells the two apart."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Terminated(KeyboardInterrupt):
    """SIGTERM came; unlike Ctrl-C it is never taken for something smaller, as the end of an answer."""


class Termination:
    """While it is entered, SIGTERM raises `Terminated`; a second one ends the process at once.

    Outside the main thread, where no handler may be set, and where the caller has a handler of its own, it does
    nothing.

    Attributes:
        came: The signal arrived.
    """

    def __init__(self) -> None:
        self.came = False
        self._installed = False

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._interrupt)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what handlers are given
        self.came = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated
