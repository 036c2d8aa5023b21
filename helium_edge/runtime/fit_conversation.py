"""Which turns of a conversation fit in the cache; the Kotlin host has the same code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from helium_edge.errors import CacheFullError
from helium_edge.runtime.token_cache import common_prefix

M = TypeVar("M", bound=Mapping[str, Any])


def fit_conversation(
    encode: Callable[[list[M]], list[int]], messages: Sequence[M], room: int, cached: Sequence[int] = ()
) -> tuple[list[int], int]:
    """Ids of a conversation that fit in `room` tokens, and how many of the oldest messages were left out.

    The system message and the last turn stay. As much is left out that half of the room is free, so that the
    conversation goes on for a while before it happens again; unless the cache holds a longer part already.

    Args:
        encode: Ids of a conversation.
        messages: A system message or none, then user and assistant in turn, the user's last.
        room: Tokens that may be taken.
        cached: Tokens that the cache holds.

    Raises:
        CacheFullError: Even the last turn alone does not fit.
    """
    ids = encode(list(messages))
    if len(ids) <= room:
        return ids, 0
    head = 1 if messages[0]["role"] == "system" else 0
    best: tuple[list[int], int] | None = None
    last = len(messages) - head - 1
    for dropped in range(2, last + 1, 2):
        ids = encode([*messages[:head], *messages[head + dropped :]])
        if len(ids) <= room and 2 * common_prefix(ids, cached) >= len(ids):
            return ids, dropped
        if best is None and (len(ids) <= room // 2 or (dropped == last and len(ids) <= room)):
            best = ids, dropped
    if best is None:
        raise CacheFullError(
            f"the last turn does not fit: {len(ids)} tokens, the KV cache has room for {room} and an answer",
            hint="shorten it or the system message, or export with a larger --cache-len",
        )
    return best
