"""How fast this machine reads memory: a sum over an array much larger than its caches.

A step of a decoder reads every weight once, so that its time has a floor: bytes over bandwidth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from helium_edge.bench.machine import l3_bytes, read_kib

PASSES = 8
_LARGEST = 1 << 30
_SMALLEST = 64 << 20
_ROW = 1 << 12


def array_bytes() -> int:
    """Size of the array: 1 GiB or eight caches if that is more, but a quarter of the free memory at most."""
    available = read_kib(Path("/proc/meminfo"), "MemAvailable") or 4 * _LARGEST
    wanted = max(_LARGEST, 8 * (l3_bytes() or 0))
    return max(_SMALLEST, min(wanted, available // 4)) & -(4 * _ROW)


def read_test(threads: int, nbytes: int | None = None) -> float:
    """Measure the bandwidth of reading.

    Two ways of reading are tried, because which vectorises better depends on the processor: a plain sum, and a
    matrix times a vector that stays in the nearest cache. The best pass counts: what others take is not the
    machine's limit.

    Args:
        threads: Threads that read.
        nbytes: Size of the array; by default `array_bytes`.

    Returns:
        Bytes per second.
    """
    import torch

    torch.set_num_threads(threads)
    count = (array_bytes() if nbytes is None else nbytes) // 4
    data = torch.ones(count, dtype=torch.float32)
    matrix, vector = data[: count // _ROW * _ROW].view(-1, _ROW), torch.ones(_ROW)
    ways: list[tuple[Callable[[], object], int]] = [
        (lambda: torch.sum(data), 4 * count),
        (lambda: torch.mv(matrix, vector), 4 * matrix.numel()),
    ]
    best = float("inf")
    for read, size in ways:
        read()
        for _ in range(PASSES):
            start = time.perf_counter_ns()
            read()
            best = min(best, (time.perf_counter_ns() - start) / size)
    return 1e9 / best
