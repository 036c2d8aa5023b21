"""Ctrl-C in a session that goes on: it ends what is being done, and nothing where there is nothing to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from ._termination import Terminated

if TYPE_CHECKING:
    from typing_extensions import Self


class Interrupts:
    """While it is entered, Ctrl-C ends what `run` does, and is let go elsewhere.

    An exception out of a signal may come between any two steps, also between those that keep an answer; so the
    handler raises only inside `run`. It does nothing outside the main thread and beside a handler of the caller's.
    """

    def __init__(self) -> None:
        self._is_running = False
        self._installed = False

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._installed = False

    def run(self, work: Callable[[], None]) -> bool:
        """Do it, and return whether it came to its end.

        Raises:
            KeyboardInterrupt: SIGTERM came, or Ctrl-C while this is not entered.
        """
        try:
            self._is_running = True
            work()
            self._is_running = False  # in here, so that an interrupt just before it is still caught
        except KeyboardInterrupt as interrupt:
            if isinstance(interrupt, Terminated) or not self._installed:
                raise
            return False
        finally:
            self._is_running = False
        return True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what handlers are given
        if self._is_running:
            self._is_running = False
            raise KeyboardInterrupt
