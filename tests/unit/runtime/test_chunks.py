"""How prompts are cut into calls of static graphs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helium_edge.runtime.chunks import DECODE, next_width


def cut(widths: list[int], count: int, room: int) -> list[int]:
    """The width of each call for `count` tokens."""
    found = []
    while count:
        found.append(next_width(widths, count, room))
        count, room = count - min(count, found[-1]), room - min(count, found[-1])
    return found


@pytest.mark.parametrize(
    ("widths", "count", "calls"),
    [
        # One graph: a chunk for everything but a single token.
        ([128], 1, [1]),
        ([128], 2, [128]),
        ([128], 128, [128]),
        ([128], 129, [128, 1]),
        ([128], 130, [128, 128]),
        # Several: half of a graph must be filled, unless there is no narrower one.
        ([8, 32, 128], 2, [8]),
        ([8, 32, 128], 8, [8]),
        ([8, 32, 128], 9, [8, 1]),
        ([8, 32, 128], 15, [8, 8]),
        ([8, 32, 128], 16, [32]),
        ([8, 32, 128], 40, [32, 8]),
        ([8, 32, 128], 63, [32, 32]),
        ([8, 32, 128], 64, [128]),
        ([8, 32, 128], 129, [128, 1]),
        ([8, 32, 128], 300, [128, 128, 32, 8, 8]),
        ([1], 3, [1, 1, 1]),
    ],
)
def test_a_prompt_is_cut(widths: list[int], count: int, calls: list[int]) -> None:
    assert cut(widths, count, 4096) == calls


@pytest.mark.parametrize(
    ("count", "room", "calls"),
    [(20, 32, [32]), (20, 31, [8, 8, 8]), (20, 24, [8, 8, 8]), (20, 23, [8, 8, *[1] * 4]), (7, 7, [1] * 7)],
)
def test_padding_never_passes_the_last_slot(count: int, room: int, calls: list[int]) -> None:
    assert cut([8, 32], count, room) == calls


@given(st.sets(st.integers(1, 200), min_size=1, max_size=4).map(sorted), st.integers(1, 400), st.integers(0, 400))
def test_every_call_fits_and_none_is_longer_than_it_need_be(widths: list[int], count: int, more: int) -> None:
    room = count + more
    width = next_width(widths, count, room)
    assert width == DECODE or (width in widths and width <= room)
    narrower = [each for each in widths if each < width]
    if width > count and narrower:
        assert 2 * count >= width or narrower[0] > count
        assert all(each < count for each in narrower)
    if width <= count:
        assert not any(width < each <= count for each in widths if count > 1)
