"""Work of a library that may never end, given up after some seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


class TimeLimitError(Exception):
    """The work did not end in time."""


def run_limited(work: Callable[[], _T], seconds: float) -> _T:
    """Run `work` in a thread and wait for its result.

    A thread cannot be stopped: work that is given up goes on until it ends or the process does, so this is for
    work that fails by being slow, not for work that is to be repeated.

    Args:
        work: Lets other threads run, or nobody can look at the clock.
        seconds: How long to wait.

    Raises:
        TimeLimitError: It took longer; whatever `work` raises is raised as it is.
    """
    result: list[_T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:  # raised again by the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, name="limited", daemon=True)  # does not hold up the end of the process
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not result:
        raise TimeLimitError
    return result[0]
