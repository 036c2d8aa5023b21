from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_edge.errors import HeliumEdgeError, UsageError
from helium_edge.runtime.sampling import Sampler, SamplingOptions


def logits_of(probabilities: list[float]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities, np.float32)) + np.float32(3)


def picks(logits: np.ndarray, count: int = 4000, **options: float) -> np.ndarray:
    sampler = Sampler(SamplingOptions(**options))  # type: ignore[arg-type]
    return np.bincount([sampler.pick(logits) for _ in range(count)], minlength=len(logits)) / count


def test_greedy_takes_the_largest_and_the_lowest_id_of_equals() -> None:
    sampler = Sampler(SamplingOptions())
    assert sampler.pick(np.array([0.0, 2.0, 1.0, 2.0], np.float32)) == 1
    assert sampler.pick(np.full(7, -5.0, np.float32)) == 0


def test_frequencies_follow_the_softmax() -> None:
    probabilities = [0.1, 0.2, 0.0, 0.7]
    assert picks(logits_of(probabilities), temperature=1.0) == pytest.approx(probabilities, abs=0.03)


def test_temperature_divides_the_logits() -> None:
    hot = np.array([0.1, 0.2, 0.7]) ** 0.5
    assert picks(logits_of([0.1, 0.2, 0.7]), temperature=2.0) == pytest.approx(hot / hot.sum(), abs=0.03)


@pytest.mark.parametrize("temperature", [1e-300, 1e-9])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    assert picks(logits_of([0.1, 0.2, 0.7]), 20, temperature=temperature)[2] == 1


def test_top_k_keeps_the_k_most_likely_and_of_equals_the_lowest_ids() -> None:
    assert picks(logits_of([0.1, 0.3, 0.2, 0.4]), 500, temperature=5.0, top_k=2)[[0, 2]].max() == 0
    tied = picks(logits_of([0.1, 0.2, 0.2, 0.2, 0.3]), 500, temperature=5.0, top_k=3)
    assert tied[[0, 3]].max() == 0
    assert tied[[1, 2, 4]].min() > 0


def test_top_p_keeps_the_token_that_crosses_it() -> None:
    counts = picks(logits_of([0.15, 0.5, 0.3, 0.05]), temperature=1.0, top_p=0.6)
    assert counts == pytest.approx([0, 0.625, 0.375, 0], abs=0.03)
    assert picks(logits_of([0.15, 0.5, 0.3, 0.05]), 200, temperature=1.0, top_p=0.01)[1] == 1


def test_top_p_is_measured_on_what_top_k_left() -> None:
    # Of all: 0.5 + 0.3 < 0.9, so a third token would stay; of the two left, 0.5/0.8 < 0.9 keeps exactly both.
    counts = picks(logits_of([0.15, 0.5, 0.3, 0.05]), 500, temperature=1.0, top_k=2, top_p=0.9)
    assert np.flatnonzero(counts).tolist() == [1, 2]
    assert picks(logits_of([0.15, 0.5, 0.3, 0.05]), 500, temperature=1.0, top_k=2, top_p=0.6)[1] == 1


@settings(max_examples=100)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3000),
    st.sampled_from([0, 1, 7, 300, 5000]),
    st.floats(0.01, 1.0),
    st.floats(0.05, 20.0),
)
def test_candidates_equal_a_full_sort(seed: int, size: int, top_k: int, top_p: float, temperature: float) -> None:
    # Rounded logits, so that there are many ties.
    logits = np.random.default_rng(seed).normal(size=size).round(1).astype(np.float32)
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    ranked = np.argsort(-weights, kind="stable")[: top_k or size]
    if top_p < 1:
        cumulative = np.cumsum(weights[ranked])
        ranked = ranked[: int(np.searchsorted(cumulative, top_p * cumulative[-1])) + 1]
    sampler = Sampler(SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p))
    found = sampler._candidates(weights)
    found = np.arange(size) if found is None else found
    # Sums in another order differ in the last bit, which may move the last candidate by one.
    assert abs(len(found) - len(ranked)) <= (top_p < 1)
    shared = min(len(found), len(ranked))
    if found.tolist() != list(range(size)):
        assert found[:shared].tolist() == ranked[:shared].tolist()


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others() -> None:
    logits = np.zeros(1000, np.float32)

    def draw(seed: int) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.0, seed=seed))
        return [sampler.pick(logits) for _ in range(8)]

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)
    # Literal: the stream must not change with a version of numpy or of this code.
    assert draw(0) == [636, 269, 40, 16, 813, 912, 606, 729]


def test_a_token_ruled_out_is_never_drawn() -> None:
    logits = np.full(50, -np.inf, np.float32)
    logits[[7, 30]] = 1.0
    for options in ({}, {"top_k": 10}, {"top_p": 0.99}):
        assert np.flatnonzero(picks(logits, 200, temperature=1.0, **options)).tolist() == [7, 30]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error(bad: float, temperature: float) -> None:
    sampler = Sampler(SamplingOptions(temperature=temperature))
    with pytest.raises(HeliumEdgeError, match="as the logit of token 2"):
        sampler.pick(np.array([0.0, 1.0, bad, 5.0], np.float32))
    with pytest.raises(HeliumEdgeError):
        sampler.pick(np.full(4, -np.inf, np.float32))


def test_the_callers_logits_are_left_alone() -> None:
    logits = np.arange(5, dtype=np.float32)
    Sampler(SamplingOptions(temperature=0.5, top_k=2, top_p=0.5)).pick(logits)
    assert logits.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_p": float("nan")},
        {"seed": -1},
        {"seed": 1 << 64},
    ],
)
def test_options_out_of_range_name_the_option_and_the_range(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(UsageError, match=f"{name} .* is out of range; allowed: "):
        SamplingOptions(**options)  # type: ignore[arg-type]
