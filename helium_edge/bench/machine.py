"""The machine that is measured: its processor, its cores, how busy it is, and the memory of a process.

Everything is read from /proc and /sys where they are; elsewhere a fact is None, and no command fails for it.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_CPU = Path("/sys/devices/system/cpu")
_BUSY_SECONDS = 0.4
BUSY_SHARE = 0.1
"""Share of all processors' time that others may take before the figures are doubted."""


def usable_cpus() -> list[int]:
    """Numbers of the logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def physical_cores() -> int:
    """Cores that this process may run on, each counted once however many threads it has; at least 1."""
    return count_cores(usable_cpus(), _siblings)


def count_cores(cpus: Iterable[int], siblings: Any) -> int:
    """Count the groups of logical processors that share a core.

    Args:
        cpus: Numbers of logical processors.
        siblings: From a number to whatever is the same for all threads of one core.
    """
    return max(1, len({siblings(cpu) for cpu in cpus}))


def _siblings(cpu: int) -> str:
    return _text(_CPU / f"cpu{cpu}" / "topology" / "thread_siblings_list") or str(cpu)


def facts() -> dict[str, Any]:
    """Processor, cores, frequency governor, memory, system and load, as plain data."""
    memory = {name: read_kib(Path("/proc/meminfo"), name) for name in ("MemTotal", "MemAvailable")}
    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "cores": physical_cores(),
        "logical_processors": len(usable_cpus()),
        "l3_bytes": l3_bytes(),
        "governor": _text(_CPU / "cpu0" / "cpufreq" / "scaling_governor"),
        "memory_bytes": memory["MemTotal"],
        "memory_available_bytes": memory["MemAvailable"],
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def processor() -> str:
    """Name of the processor."""
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Hardware"):
            return value.strip()
    return platform.processor() or platform.machine()


def l3_bytes() -> int | None:
    """Size of the last cache that processor 0 sees."""
    sizes = []
    for index in range(8):
        text = _text(_CPU / "cpu0" / "cache" / f"index{index}" / "size") or ""
        if text[-1:] in ("K", "M") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << (10 if text[-1] == "K" else 20))
    return max(sizes, default=None)


def load_average() -> float | None:
    """Processes that ran or waited, mean of the last minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def process_memory(pid: int | str = "self") -> dict[str, int | None]:
    """Resident memory of a process in bytes: anonymous, mapped from files, and the most there ever was of both."""
    status = Path(f"/proc/{pid}/status")
    shared = read_kib(status, "RssShmem")
    anonymous = read_kib(status, "RssAnon")
    return {
        "anonymous_bytes": None if anonymous is None else anonymous + (shared or 0),
        "mapped_bytes": read_kib(status, "RssFile"),
        "peak_bytes": read_kib(status, "VmHWM"),
    }


def read_kib(path: Path, name: str) -> int | None:
    """A field of a file of `NAME:   123 kB` lines, in bytes."""
    for line in (_text(path) or "").splitlines():
        key, _, value = line.partition(":")
        if key == name and value.split():
            return int(value.split()[0]) * 1024
    return None


class BusyMeter:
    """How much of the processors' time went to others than some processes, since it was made.

    Args:
        pids: The processes whose time is theirs by right.
    """

    def __init__(self, pids: Iterable[int] = ()) -> None:
        self._pids = tuple(pids)
        self._busy, self._all = _ticks()
        self._own = sum(map(_process_ticks, self._pids))

    def share_of_others(self) -> float | None:
        """Between 0 and 1; None where the system does not tell."""
        busy, everything = _ticks()
        own = sum(map(_process_ticks, self._pids))
        elapsed = everything - self._all
        if elapsed <= 0:
            return None
        return min(1.0, max(0.0, (busy - self._busy - (own - self._own)) / elapsed))


def busy_now() -> float | None:
    """Share of the processors' time that somebody uses at this moment."""
    meter = BusyMeter()
    time.sleep(_BUSY_SECONDS)
    return meter.share_of_others()


def _ticks() -> tuple[int, int]:
    """Clock ticks of all processors: those with work, and all. Time that a hypervisor took counts as work."""
    words = (_text(Path("/proc/stat")) or "").splitlines()[:1]
    numbers = [int(word) for word in words[0].split()[1:9]] if words else []
    if len(numbers) < 5:
        return 0, 0
    idle = numbers[3] + numbers[4]
    return sum(numbers) - idle, sum(numbers)


def _process_ticks(pid: int) -> int:
    text = _text(Path(f"/proc/{pid}/stat"))
    # The name in parentheses may hold anything; 14 and 15 are the user and system time.
    fields = text[text.rindex(")") + 2 :].split() if text and ")" in text else []
    return int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
