"""How fast this machine reads memory: the largest number of an array that is much larger than its caches.

A step of a decoder reads every weight once, so that its time has a floor: bytes over bandwidth.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from helium_edge.bench.machine import l3_bytes, read_kib

PASSES = 12
_LARGEST = 1 << 30
_SMALLEST = 64 << 20


def array_bytes() -> int:
    """Size of the array: 1 GiB or eight caches if that is more, but a quarter of the free memory at most."""
    available = read_kib(Path("/proc/meminfo"), "MemAvailable") or 4 * _LARGEST
    return max(_SMALLEST, min(max(_LARGEST, 8 * (l3_bytes() or 0)), available // 4))


def read_test(threads: int, nbytes: int | None = None) -> float:
    """Measure the bandwidth of reading.

    Each thread looks for the maximum of its part, which numpy does with vector instructions and without its lock;
    of data in a cache it goes through 60 GB/s a thread (Zen 3), more than any core gets from memory. The best pass
    counts: what other programs take is not the machine's limit.

    Args:
        threads: Threads that read.
        nbytes: Size of the array; by default `array_bytes`.

    Returns:
        Bytes per second.
    """
    count = max(threads, (array_bytes() if nbytes is None else nbytes) // 4)
    parts = np.array_split(np.ones(count, np.int32), threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(1 + PASSES):
            start = time.perf_counter_ns()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter_ns() - start)
    return 4e9 * count / best
