"""The search for ties that explain a row: greedy, one tie at a time."""

from __future__ import annotations

import numpy as np
import pytest

from helium_edge.parity.emulation import Sides, Tie
from helium_edge.parity.yardstick import Search

LIMIT = 40
"""More tries than a search makes."""


@pytest.mark.parametrize("count", [1, 2, 4])
def test_ties_of_equal_weight_are_found_one_after_the_other(count: int) -> None:
    """Each of n independent flips that is undone leaves sqrt((n - 1) / n) of the error; one that was none adds."""
    ties = {Tie(0, 0, column): Sides(3.0, 4.0, 1e-6 * column) for column in range(count + 2)}
    flipped = set(list(ties)[1 : count + 1])

    def errors(turned: set[Tie]) -> np.ndarray:
        return np.array([[4e-3 * np.sqrt(len(flipped ^ turned)) or 1e-7, np.nan]])

    search = Search(errors(set()), {0: ties})
    for _ in range(LIMIT):
        if not search.open_rows():
            break
        codes = search.trial(0)
        search.judge([0], errors({tie for tie in ties if codes[tie] == ties[tie].other}), {0: {}})
    assert search.errors[0, 0] < 1e-6
    assert search.ties[0] == count
