"""What is told of memory, and that a cache of which little is used takes little."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from helium_edge.memory import PeakMemory, peak_rss_bytes, resident_bytes, small_pages

SIZE = 64 << 20
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells kinds of memory apart")


@linux
def test_peaks_are_of_the_block_and_by_kind() -> None:
    before = resident_bytes()
    assert before is not None
    with PeakMemory() as peak:
        held = bytearray(SIZE)
        held[::4096] = b"x" * len(held[::4096])
    assert peak.anonymous_bytes is not None
    assert peak.mapped_bytes is not None
    assert SIZE / 2 < peak.anonymous_bytes - before[0] < 2 * SIZE
    assert peak.mapped_bytes < before[1] + SIZE / 2
    assert peak_rss_bytes() >= peak.anonymous_bytes
    assert len(held) == SIZE


@linux
def test_a_few_rows_of_a_large_array_take_a_few_small_pages() -> None:
    before = resident_bytes()
    with small_pages():
        cache = np.zeros((SIZE >> 21, 1 << 19), np.float32)  # numpy asks for huge pages
        cache[:, 5] = 1
    after = resident_bytes()
    assert before is not None
    assert after is not None
    assert after[0] - before[0] < SIZE / 4
    assert cache.sum() == len(cache)
