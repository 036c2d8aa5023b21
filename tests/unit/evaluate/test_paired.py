"""Paired statistics against scipy, over all small tables, and by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from helium_edge.evaluate import paired


def answers(both: int, lost: int, gained: int, neither: int) -> tuple[paired.Floats, paired.Floats]:
    original = np.repeat([1.0, 1.0, 0.0, 0.0], [both, lost, gained, neither])
    artifact = np.repeat([1.0, 0.0, 1.0, 0.0], [both, lost, gained, neither])
    return original, artifact


def test_all_small_tables_are_those_of_scipy() -> None:
    for both, lost, gained, neither in itertools.product(range(4), range(7), range(7), range(2)):
        if both + lost + gained + neither < 2:
            continue
        original, artifact = answers(both, lost, gained, neither)
        found = paired.share_difference(original, artifact)
        assert paired.flips(original, artifact) == (lost, gained)
        assert found.value == pytest.approx(artifact.mean() - original.mean(), abs=1e-15)
        assert found.se == pytest.approx(scipy.stats.sem(artifact - original), abs=1e-15)
        if lost + gained:
            expected = scipy.stats.binomtest(lost, lost + gained, 0.5).pvalue
            assert paired.mcnemar(lost, gained) == pytest.approx(expected, rel=1e-12)
        assert paired.mean_difference(original, artifact).se == found.se


def test_no_change_has_an_interval_that_shrinks_with_the_questions() -> None:
    assert paired.mcnemar(0, 0) == 1.0
    widths = [paired.share_difference(*answers(n, 0, 0, 0)).high for n in (10, 100, 1000)]
    assert widths[0] > widths[1] > widths[2] > 0
    found = paired.share_difference(*answers(1000, 0, 0, 0))
    assert (found.value, found.se) == (0.0, 0.0)
    assert found.low == -found.high


def test_one_question_has_no_error() -> None:
    assert math.isnan(paired.mean_difference(np.ones(1), np.zeros(1)).se)


@pytest.mark.parametrize(("n", "lost", "gained"), [(400, 0.06, 0.04), (1000, 0.03, 0.02), (2000, 0.01, 0.01)])
def test_intervals_hold_the_truth_in_95_of_100_draws(n: int, lost: float, gained: float) -> None:
    rng = np.random.default_rng(7)
    draws = 6000
    table = rng.multinomial(n, [lost, gained, 1 - lost - gained], size=draws)
    hits = 0
    for less, more in table[:, :2].tolist():
        middle, spread = paired.agresti_min(n, less, more)
        hits += abs(middle - (gained - lost)) <= paired.Z * spread
    assert hits / draws == pytest.approx(0.95, abs=0.01)


def test_the_bootstrap_of_a_mean_finds_its_standard_error() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 20, (300, 1))
    worse = np.maximum(counts - rng.integers(0, 3, (300, 1)), 0)
    found = paired.bootstrap(counts, worse, lambda sums: sums[:, 0] / 300, draws=4000)
    change = (worse - counts)[:, 0].astype(float)
    assert found.value == pytest.approx(change.mean())
    assert found.se == pytest.approx(paired.standard_error(change), rel=0.05)
    assert found.low < found.value < found.high


def difference(value: float, spread: float) -> paired.Difference:
    return paired.Difference(value, spread, value - paired.Z * spread, value + paired.Z * spread, spread)


def test_a_gate_fails_only_what_is_surely_worse() -> None:
    assert paired.judge(difference(-3.0, 0.5), 1.0) == "worse"
    assert paired.judge(difference(-1.5, 0.5), 1.0) == "undecided"
    assert paired.judge(difference(-0.5, 0.5), 1.0) == "undecided"
    assert paired.judge(difference(0.1, 0.5), 1.0) == "holds"
    assert paired.too_few(difference(0, 0.6), 1.0)
    assert not paired.too_few(difference(0, 0.4), 1.0)
    # Five questions, all lost, and none of them changed: neither is proof of anything but itself.
    assert paired.judge(paired.share_difference(*answers(0, 5, 0, 0)), 0.01) == "worse"
    assert paired.judge(paired.share_difference(*answers(5, 0, 0, 0)), 0.01) == "undecided"
    assert paired.too_few(paired.share_difference(*answers(5, 0, 0, 0)), 0.01)


def test_the_mean_of_tasks_has_the_error_of_its_parts() -> None:
    found = paired.mean_of([difference(-1.0, 0.3), difference(0.0, 0.4)])
    assert (found.value, found.se, found.spread) == pytest.approx((-0.5, 0.25, 0.25))
    assert found.high - found.low == pytest.approx(2 * paired.Z * 0.25)
