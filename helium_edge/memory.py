"""Memory of this process: how much it held at most, by kind.

Anonymous memory is what a program allocates. Mapped memory is pages of files: shown as used, but given back by the
system whenever something else needs room.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
from pathlib import Path
from typing import final

_STATUS = Path("/proc/self/status")
_SAMPLE_SECONDS = 0.05


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far, mapped files included."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    except (OSError, ValueError, StopIteration):
        pass  # not Linux; there, getrusage would begin with the peak of the process that started this one
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> tuple[int, int] | None:
    """Anonymous and mapped memory that this process holds now; None where the system does not tell them apart."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        found = dict(line.split(":", 1) for line in lines)
        anonymous, *mapped = (int(found[key].split()[0]) << 10 for key in ("RssAnon", "RssFile", "RssShmem"))
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return anonymous, sum(mapped)


@final
class PeakMemory(contextlib.AbstractContextManager["PeakMemory"]):
    """Watches the memory of this process while its block runs.

    Attributes:
        anonymous_bytes: Most anonymous memory seen; None where the system does not tell.
        mapped_bytes: Most mapped memory seen, which need not be at the same moment.
    """

    def __init__(self) -> None:
        self.anonymous_bytes: int | None = None
        self.mapped_bytes: int | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._end.wait(_SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        now = resident_bytes()
        if now is not None:
            self.anonymous_bytes = max(self.anonymous_bytes or 0, now[0])
            self.mapped_bytes = max(self.mapped_bytes or 0, now[1])
