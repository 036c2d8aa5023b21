from __future__ import annotations

import numpy as np
import pytest

from helium_edge.parity.metrics import Positions, compare_rows
from helium_edge.parity.statistics import aggregate
from helium_edge.parity.window_figures import by_window


def rows(seed: int, count: int, window: int) -> Positions:
    generator = np.random.default_rng(seed)
    reference = generator.normal(size=(count, 50)).astype(np.float32)
    noise = generator.normal(scale=0.2, size=reference.shape).astype(np.float32)
    return compare_rows(reference, reference + noise, generator.integers(0, 50, count).tolist(), window=window)


def test_windows_add_up_to_the_whole() -> None:
    """Positions come in pieces, and windows of one language need not follow each other."""
    languages = {
        "en": Positions.concatenate([rows(1, 5, 0), rows(2, 9, 3), rows(3, 4, 0)]),
        "fr": rows(4, 7, 1),
    }
    found = by_window(languages, near_tie=0.3)
    assert [(window.language, window.tokens) for window in found] == [("en", 9), ("en", 9), ("fr", 7)]
    whole = aggregate(Positions.concatenate(list(languages.values())), near_tie=0.3)
    weights = [window.tokens for window in found]
    assert np.average([window.kld_mean for window in found], weights=weights) == pytest.approx(whole.kld_mean)
    assert np.average([window.top1_decided for window in found], weights=weights) == pytest.approx(
        whole.top1_decided
    )
    mean = np.average([window.log_ppl_ratio for window in found], weights=weights)
    assert np.exp(mean) == pytest.approx(whole.ppl_ratio)
    assert whole.ambiguous > 0
