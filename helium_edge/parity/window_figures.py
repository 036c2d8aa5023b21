"""Figures window by window, so that two runs on the same text can be compared pair by pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from helium_edge.parity.metrics import Positions
from helium_edge.parity.statistics import ambiguous_positions
from helium_edge.schemas import Count, Figure, Positive


@dataclass(frozen=True)
class WindowFigures:
    """One conversation; names as in `Aggregate`."""

    language: str
    tokens: Count
    """Positions compared in it."""
    kld_mean: Positive
    """Mean KLD, nats."""
    top1_decided: Positive
    """Share of positions that agree, near ties included."""
    log_ppl_ratio: Figure
    """Natural logarithm of the perplexity ratio."""


def by_window(languages: Mapping[str, Positions], *, near_tie: float) -> tuple[WindowFigures, ...]:
    """Figures of every window, language by language in the order in which the windows were run.

    Args:
        languages: Positions of each language.
        near_tie: See `statistics.aggregate`.
    """
    found = []
    for language, positions in languages.items():
        agrees = positions.agrees | ambiguous_positions(positions, near_tie=near_tie)
        with np.errstate(invalid="ignore"):
            surprise = positions.nll_candidate - positions.nll_reference
        for window in np.unique(positions.window):
            inside = positions.window == window
            found.append(
                WindowFigures(
                    language,
                    int(inside.sum()),
                    float(positions.kld[inside].mean()),
                    float(agrees[inside].mean()),
                    float(surprise[inside].mean()),
                )
            )
    return tuple(found)
