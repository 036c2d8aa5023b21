"""What is told of memory."""

from __future__ import annotations

import sys

import pytest

from helium_edge.memory import PeakMemory, peak_rss_bytes, resident_bytes

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
