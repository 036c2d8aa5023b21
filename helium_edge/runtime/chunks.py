"""How a prompt is cut into calls of static graphs: the one rule that all hosts of a bundle follow.

A static graph computes all of its token slots, whatever they hold, so that a wide one wastes its time on a short
text, and narrow ones read the weights more often than one that is wide.
"""

from __future__ import annotations

from collections.abc import Sequence

DECODE = 1
"""Tokens of a decode step."""


def next_width(widths: Sequence[int], remaining: int, room: int) -> int:
    """Tokens of the call that comes next.

    The narrowest graph that holds all remaining tokens, if they fill half of it or no narrower one is there;
    otherwise the widest that they fill. A single token is a decode step, and so is each token where the padding
    of no graph fits in the cache.

    Args:
        widths: Tokens of each prefill graph, ascending.
        remaining: Tokens that are to be appended, at least 1.
        room: Free slots of the cache, at least as many.

    Returns:
        One of `widths`, or `DECODE`.
    """
    fitting = [width for width in widths if width <= room]
    if remaining == 1 or not fitting:
        return DECODE
    filled = [width for width in fitting if width <= remaining]
    enough = [width for width in fitting if width >= remaining]
    if enough and (not filled or 2 * remaining >= enough[0]):
        return enough[0]
    return filled[-1]
