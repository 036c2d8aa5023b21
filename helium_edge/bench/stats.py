"""Statistics of repeated timings: medians with their quartiles, and ratios of samples that were taken in turn.

Times on a shared machine have a long tail to one side: a median with its quartiles says more of them than a mean
with its deviation. Two programs are compared by the ratio of samples that stand next to each other, so that what
slows the machine for a while slows both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from helium_edge.bench.document import SampleFigures, Speed

RESAMPLES = 4000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """What was found for one quantity.

    Attributes:
        samples: In the order in which they were taken.
    """

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return self._quantile(0.5)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile, interpolated linearly."""
        return self._quantile(0.25), self._quantile(0.75)

    def scaled(self, factor: float) -> Summary:
        """The same in another unit."""
        return Summary(tuple(sample * factor for sample in self.samples))

    def document(self) -> SampleFigures:
        """As it is written."""
        return SampleFigures(**self.figures())

    def figures(self) -> dict[str, Any]:
        """Median, quartiles and ends by their names in the document, and the samples."""
        low, high = self.quartiles
        return {
            "median": self.median,
            "q1": low,
            "q3": high,
            "min": min(self.samples),
            "max": max(self.samples),
            "n": len(self.samples),
            "samples": self.samples,
        }

    def _quantile(self, share: float) -> float:
        return float(np.quantile(self.samples, share))


@dataclass(frozen=True)
class Ratio:
    """How many times as fast the first of two programs was, by pairs of samples.

    Attributes:
        pairs: Time of the second over time of the first, pair by pair; above 1 the first is faster.
        low: Lower end of the interval that holds the median ratio with 95 % confidence.
        high: Its upper end.
    """

    pairs: Summary
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether the interval leaves 1 out: the two are not equally fast."""
        return not self.low <= 1.0 <= self.high

    def document(self) -> Speed:
        """As it is written."""
        return Speed(**self.pairs.figures(), low=self.low, high=self.high, confidence=CONFIDENCE)


def ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """Compare times that were taken in turn.

    Args:
        first: Times of one program.
        second: Times of the other; the sample at the same place was taken next to it.

    Raises:
        ValueError: Not as many of each, or none.

    Source: percentile bootstrap of the median, Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13;
        the resampling is seeded, so that the same samples give the same interval.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"{len(first)} and {len(second)} samples are no pairs")
    pairs = np.asarray(second, np.float64) / np.asarray(first, np.float64)
    drawn = np.random.default_rng(0).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    medians = np.median(pairs[drawn], axis=1)
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Ratio(Summary(tuple(map(float, pairs))), float(low), float(high))
