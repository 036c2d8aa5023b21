"""The choice of one scheme a group that loses least within a budget of bytes.

Losses of groups add up (helium-tiny: 0.0431 in sum, 0.0434 together), so that this is a knapsack with one choice a
group, solved exactly up to the unit in which bytes are counted.

Source: Kellerer, Pferschy, Pisinger, Knapsack Problems (2004), chapter 11: the multiple-choice knapsack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_UNITS = 50_000
"""Units that a budget is counted in: every group is rounded up by at most one of them."""


@dataclass(frozen=True)
class Option:
    """One way to keep a group.

    Attributes:
        nbytes: What it takes, at least 0.
        loss: What it costs.
    """

    nbytes: int
    loss: float


def choose(groups: Sequence[Sequence[Option]], budget: int) -> list[int] | None:
    """Take one option of each group so that bytes fit and the sum of losses is least.

    Args:
        groups: The options of each group, at least one.
        budget: Most bytes of all chosen options together.

    Returns:
        The index of the option of each group; None where even the smallest of all do not fit.
    """
    # What every choice costs is taken off first, so that units are spent on what differs.
    floors = [min(option.nbytes for option in options) for options in groups]
    room = budget - sum(floors)
    if room < 0:
        return None
    free = [min(range(len(options)), key=lambda index: options[index].loss) for options in groups]
    if sum(options[index].nbytes for options, index in zip(groups, free, strict=True)) <= budget:
        return free
    unit = max(1, math.ceil(room / _UNITS))
    capacity = room // unit
    best = np.zeros(capacity + 1)  # least loss of the groups so far, by units that may be used
    picks = []
    for options, floor in zip(groups, floors, strict=True):
        found = np.full((len(options), capacity + 1), np.inf)
        for index, option in enumerate(options):
            size = math.ceil((option.nbytes - floor) / unit)
            if size <= capacity:
                found[index, size:] = best[: capacity + 1 - size] + option.loss
        picks.append(found.argmin(axis=0).astype(np.uint8))
        best = found.min(axis=0)
    chosen, left = [], capacity
    for options, floor, pick in zip(reversed(groups), reversed(floors), reversed(picks), strict=True):
        index = int(pick[left])
        chosen.append(index)
        left -= math.ceil((options[index].nbytes - floor) / unit)
    return chosen[::-1]
