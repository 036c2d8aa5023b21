"""KV caches take memory as tokens are written, and say when there is none."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from helium_edge.errors import ResourceError
from helium_edge.runtime.cache_memory import cache_buffers
from helium_edge.signature import CacheSpec

HEADS, SLOTS, DIM = 20, 4096, 128
SPEC = CacheSpec(2, HEADS, SLOTS, DIM, "in_place")
PAGE = 4096


def resident(array: npt.NDArray[np.float32]) -> int:
    """Bytes of the mapping that holds an array, as Linux counts them."""
    address = array.__array_interface__["data"][0]
    for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        start, end = (int(part, 16) for part in block.split(" ", 1)[0].split("-"))
        if start <= address < end:
            found = re.search(r"Rss: +(\d+) kB", block)
            assert found
            return 1024 * int(found[1])
    raise AssertionError("no such mapping")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_token_takes_a_page_a_head() -> None:
    first, second, *_ = cache_buffers(SPEC)
    before = resident(first)  # the system may keep neighbouring buffers in one mapping
    first[:, :, 0] = 1.0
    second[:, :, 0] = 1.0
    assert 0 < resident(first) - before <= 2 * HEADS * PAGE


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_buffers_are_zeroed_and_apart(batched: bool, dtype: str) -> None:
    spec = dataclasses.replace(SPEC, batched=batched, dtype=dtype)
    whole, short = cache_buffers(spec), cache_buffers(spec, 64)
    assert [buffer.shape for buffer in whole] == [spec.shape] * 4
    assert {buffer.shape for buffer in short} == {((1,) if batched else ()) + (HEADS, 64, DIM)}
    for number, buffer in enumerate(short, 1):
        assert buffer.dtype == dtype
        assert not buffer.any()
        buffer[...] = number
    assert [int(buffer.max()) for buffer in short] == [int(buffer.min()) for buffer in short] == [1, 2, 3, 4]


def test_no_memory_is_said_in_one_line() -> None:
    spec = dataclasses.replace(SPEC, cache_len=1 << 40)
    with pytest.raises(ResourceError, match=r"^no memory for a KV cache of \d+ bytes$"):
        cache_buffers(spec)
