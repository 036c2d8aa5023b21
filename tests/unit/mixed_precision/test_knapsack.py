"""The choice within a budget, against every choice there is."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from helium_edge.mixed_precision.knapsack import Option, choose

OPTIONS = st.lists(
    st.builds(Option, st.integers(0, 300), st.floats(0, 10, allow_nan=False)), min_size=1, max_size=4
)


def price(groups: list[list[Option]], picks: list[int]) -> tuple[int, float]:
    chosen = [options[pick] for options, pick in zip(groups, picks, strict=True)]
    return sum(option.nbytes for option in chosen), sum(option.loss for option in chosen)


@given(st.lists(OPTIONS, min_size=1, max_size=5), st.integers(0, 1200))
def test_no_other_choice_that_fits_loses_less(groups: list[list[Option]], budget: int) -> None:
    every = [price(groups, list(picks)) for picks in itertools.product(*(range(len(each)) for each in groups))]
    fitting = [loss for nbytes, loss in every if nbytes <= budget]
    found = choose(groups, budget)
    if not fitting:
        assert found is None
        return
    assert found is not None
    nbytes, loss = price(groups, found)
    assert nbytes <= budget
    assert math.isclose(loss, min(fitting), abs_tol=1e-9)


def test_a_budget_of_gigabytes_is_kept_and_nearly_used() -> None:
    groups = [[Option(10_000_000 + index, 4.0), Option(20_000_000 + index, 1.0)] for index in range(100)]
    found = choose(groups, 1_500_000_000)
    assert found is not None
    nbytes, _ = price(groups, found)
    assert sum(found) == 49  # 50 need 1,500,004,950 bytes
    assert nbytes <= 1_500_000_000
