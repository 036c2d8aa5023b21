from __future__ import annotations

import numpy as np
import pytest

from helium_edge.bench.stats import Summary, ratio


def test_a_summary_is_the_median_and_its_quartiles() -> None:
    summary = Summary((5.0, 1.0, 4.0, 2.0, 3.0))
    assert (summary.median, summary.quartiles) == (3.0, (2.0, 4.0))
    document = summary.scaled(10).document().to_json()
    assert document["samples"] == [50.0, 10.0, 40.0, 20.0, 30.0]
    assert {key: document[key] for key in ("median", "q1", "q3", "min", "max", "n")} == {
        "median": 30.0, "q1": 20.0, "q3": 40.0, "min": 10.0, "max": 50.0, "n": 5,
    }  # fmt: skip


def test_one_interruption_moves_neither_median_nor_quartiles() -> None:
    calm = Summary((1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6))
    assert Summary((*calm.samples[:-1], 60.0)).quartiles == calm.quartiles


def test_a_ratio_is_that_of_neighbours() -> None:
    """The machine slows down to a third half-way: what stands next to each other does not show it."""
    drift = np.array([1.0] * 10 + [3.0] * 10)
    found = ratio(list(drift), list(drift * 1.25))
    assert found.pairs.median == pytest.approx(1.25)
    assert (found.low, found.high) == pytest.approx((1.25, 1.25))
    assert found.differs


def test_above_one_the_first_is_faster() -> None:
    assert ratio([1.0, 1.0], [2.0, 2.0]).pairs.median == 2.0
    assert ratio([2.0, 2.0], [1.0, 1.0]).pairs.median == 0.5


def test_noise_alone_is_no_difference() -> None:
    wrong = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        first, second = rng.lognormal(0, 0.05, (2, 15))
        wrong += ratio(list(first), list(second)).differs
    assert wrong <= 5  # 95 % confidence: two of forty are expected


def test_a_difference_within_the_noise_of_a_sample_is_found() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.lognormal(0, 0.05, (2, 60))
    found = ratio(list(first), list(second * 1.05))
    assert found.differs
    assert found.low < 1.05 < found.high


def test_the_same_samples_give_the_same_interval() -> None:
    samples = [1.0, 1.2, 1.1, 1.3], [1.1, 1.2, 1.4, 1.2]
    assert ratio(*samples).document() == ratio(*samples).document()


@pytest.mark.parametrize("samples", [([], []), ([1.0], [1.0, 2.0])])
def test_what_is_no_pair_is_refused(samples: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="no pairs"):
        ratio(*samples)
