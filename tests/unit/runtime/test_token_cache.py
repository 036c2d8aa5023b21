from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from helium_edge.errors import CacheFullError
from helium_edge.runtime.fit_conversation import fit_conversation
from helium_edge.runtime.runner import check_seek
from helium_edge.runtime.token_cache import TokenCache, common_prefix
from tests.unit.runtime.test_generate import CountingRunner


class SeekingRunner(CountingRunner):
    """Keeps what was written to each slot, so that a wrong position shows."""

    cache_buffers: list[Any] = []  # noqa: RUF012

    def seek(self, position: int) -> None:
        check_seek(position, self.cache_len)
        del self.fed[position:]


def test_only_what_differs_is_run_and_at_least_one_token() -> None:
    runner = SeekingRunner()
    cache = TokenCache(runner)
    assert cache.follow([1, 2, 3]) == [1, 2, 3]
    cache.prefill([1, 2, 3])
    cache.decode(4)
    assert list(cache.ids) == [1, 2, 3, 4] == runner.fed
    assert cache.follow([1, 2, 5, 6]) == [5, 6]
    assert cache.position == 2
    cache.prefill([5, 6])
    assert cache.follow([1, 2, 5, 6]) == [6]
    assert cache.follow([9]) == [9]
    assert cache.position == 0


def test_a_call_that_was_interrupted_is_not_trusted() -> None:
    runner = SeekingRunner()
    cache = TokenCache(runner)
    cache.prefill([1, 2])
    runner.fed += [7, 8]  # written by a chunk, before the interrupt
    assert cache.follow([1, 2, 7, 8]) == [7, 8]
    cache.prefill([7])
    runner.fed += [8]
    cache.decode(3)
    assert runner.fed == [1, 2, 7, 3]


def test_a_runner_that_cannot_seek_starts_anew() -> None:
    class Plain(CountingRunner):
        cache_buffers: Sequence[Any] = ()

    cache = TokenCache(Plain())  # type: ignore[arg-type]
    cache.prefill([1, 2, 3])
    assert cache.follow([1, 2, 3, 4]) == [1, 2, 3, 4]
    assert cache.position == 0


def test_forgotten_tokens_are_not_used() -> None:
    cache = TokenCache(SeekingRunner())
    cache.prefill([1, 2, 3])
    cache.forget()
    assert cache.follow([1, 2, 3]) == [1, 2, 3]


def test_common_prefix() -> None:
    assert common_prefix([], [1]) == 0
    assert common_prefix([1, 2], [1, 2, 3]) == 2
    assert common_prefix([1, 5, 3], [1, 2, 3]) == 1


def messages(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": str(index)} for index, role in enumerate(roles)]


def ten_each(kept: Sequence[dict[str, str]]) -> list[int]:
    """Ten tokens a message, its number."""
    return [int(message["content"]) for message in kept for _ in range(10)]


LONG = messages("system", *["user", "assistant"] * 5, "user")


@pytest.mark.parametrize(
    ("room", "cached", "dropped"),
    [
        (120, [], 0),
        (119, [], 6),  # to 60 tokens, which is more than half of 119
        (80, [], 8),
        (119, ten_each([LONG[0], *LONG[3:7]]), 2),  # the cache has most of that
        (20, [], 10),
    ],
)
def test_the_oldest_turns_go_and_the_system_message_stays(room: int, cached: list[int], dropped: int) -> None:
    ids, found = fit_conversation(ten_each, LONG, room, cached)
    expected = 8 if (room, dropped) == (119, 6) else dropped
    assert found == expected
    assert len(ids) <= room
    assert ids[:10] == [0] * 10
    assert ids[-10:] == [11] * 10


def test_the_last_turn_must_fit() -> None:
    with pytest.raises(CacheFullError, match="the last turn does not fit: 20 tokens"):
        fit_conversation(ten_each, LONG, 19)
    with pytest.raises(CacheFullError):
        fit_conversation(ten_each, messages("user"), 9)
