"""Keeps the chatter of foreign libraries off the user's terminal: warnings, log lines, and what C++ prints.

With the logger `helium_edge` at DEBUG nothing is hidden.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import BinaryIO, cast


class Noise:
    """What was printed while it was hidden; filled when the block ends."""

    text: str = ""

    def last_error(self) -> str:
        """The last line that a C++ log marks as an error, without its place; empty when there is none."""
        lines = [line for line in self.text.splitlines() if line.startswith(("E ", "[E", "F "))]
        others = [line for line in self.text.splitlines() if not line.startswith(("I ", "[I", "W ", "[W", "D "))]
        lines = lines or [line for line in others if "rror" in line or "ailed" in line]
        return lines[-1].rpartition("] ")[2].strip() if lines else ""


def is_debug() -> bool:
    """Whether the user asked to see everything."""
    return logging.getLogger("helium_edge").isEnabledFor(logging.DEBUG)


@contextlib.contextmanager
def quiet(*, descriptors: bool = True) -> Iterator[Noise]:
    """Hide Python warnings, log records below ERROR, and optionally everything printed, while the block runs.

    Args:
        descriptors: Also capture the process's stdout and stderr, below Python. Only for short calls: a progress
            display of another thread is captured with it.

    Yields:
        What was captured; empty without `descriptors` and in debug mode.
    """
    noise = Noise()
    if is_debug():
        yield noise
        return
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        logging.disable(max(disabled, logging.WARNING))
        stack.callback(logging.disable, disabled)
        if descriptors:
            stack.enter_context(_captured(noise))
        yield noise


@contextlib.contextmanager
def _captured(noise: Noise) -> Iterator[None]:
    """Point file descriptors 1 and 2 at a file of ours; C++ libraries print below `sys.stderr`.

    `sys.stderr` itself stays: a library that is imported meanwhile may keep it for its log.
    """
    with _scratch() as file:
        _flush()
        saved = [(number, os.dup(number)) for number in (1, 2)]
        for number, _ in saved:
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            _flush()
            for number, copy in saved:
                os.dup2(copy, number)
                os.close(copy)
            file.seek(0)
            noise.text = file.read().decode("utf-8", "replace")


def _scratch() -> BinaryIO:
    """A file without a name; in memory where the system has such files, so that no folder is needed."""
    if hasattr(os, "memfd_create"):
        return cast("BinaryIO", os.fdopen(os.memfd_create("helium-edge"), "w+b"))
    return cast("BinaryIO", tempfile.TemporaryFile())


def _flush() -> None:
    """Empty the buffers above the descriptors, so that each line goes where it was meant to go."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)
