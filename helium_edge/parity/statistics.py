"""Sums up positions: figures with their standard errors, the distribution of the KLD, the KLD along the text.

Neighbouring positions share a context, so errors are those of a sample of clusters: runs of `CLUSTER` consecutive
positions of one conversation. A smooth figure is linearised at its mean; a quantile is bounded by the quantiles at
one standard error of its own share to each side (Woodruff, Confidence intervals for medians and other position
measures, JASA 47, 1952). Figures of the two sides are paired position by position.

Shape legend: R rows (positions).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helium_edge.parity.metrics import Array, Index, Mask, Positions
from helium_edge.schemas import Count, Figure, Items, Positive, Share, Size

CLUSTER = 32
"""Consecutive positions taken as one observation."""

_BINS_PER_DECADE = 4
_LOWEST, _HIGHEST = -9, 2
"""Range of the histogram: powers of ten in nats."""


@dataclass(frozen=True)
class Aggregate:
    """Figures over positions; `<name>_se` is the standard error of `<name>`, NaN where it cannot be told."""

    tokens: Size
    """Positions compared."""
    nonfinite: Count
    """Positions where the candidate returned NaN or infinity."""
    kld_mean: Positive
    """Mean KL(reference || candidate), nats per token."""
    kld_mean_se: Positive
    kld_median: Positive
    """Median KLD, nats."""
    kld_median_se: Positive
    kld_p99: Positive
    """99 % quantile of the KLD, nats."""
    kld_p99_se: Positive
    kld_p999: Positive
    """99.9 % quantile of the KLD, nats."""
    kld_p999_se: Positive
    kld_max: Positive
    """Largest KLD, nats."""
    top1: Share
    """Share of positions with the same most likely token."""
    top1_se: Positive
    ambiguous: Count
    """Disagreements where the reference itself is undecided."""
    top1_decided: Share
    """top1 with ambiguous positions counted as agreement; what the gate judges."""
    top1_decided_se: Positive
    ppl_reference: Positive
    """Perplexity of the text under the reference."""
    ppl_reference_se: Positive
    ppl_candidate: Positive
    """Perplexity under the candidate."""
    ppl_candidate_se: Positive
    ppl_ratio: Positive
    """Candidate over reference, token by token on the same text."""
    ppl_ratio_se: Positive
    max_logit_error: Positive
    """Largest over positions of max |delta logit| / rms(logit)."""
    rms_logit_error: Positive
    """rms(delta logit) / rms(logit) over all positions."""
    rms_logit_error_se: Positive
    snr_db: Figure
    """Signal to noise of the logits, dB; null where the error is zero."""
    snr_db_se: Positive
    rms_delta_p: Positive
    """Root mean square change of p(target)."""
    rms_delta_p_se: Positive


def aggregate(positions: Positions, *, near_tie: float) -> Aggregate:
    """Sum up one or more positions.

    Args:
        positions: What was compared.
        near_tie: A disagreement is ambiguous where the reference's margin is below this share of rms(logit).
    """
    clusters = _Clusters(positions)
    ambiguous = ambiguous_positions(positions, near_tie=near_tie)
    # Infinite errors are meant to come through: inf - inf and overflowing exponentials are no accident here.
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        rms = np.sqrt(positions.mean_square)
        noise, noise_se = _rms_ratio(positions, clusters)
        change, change_se = clusters.mean(np.square(positions.delta_p))
        nll = positions.nll_reference, positions.nll_candidate
        values = {
            "kld_mean": clusters.mean(positions.kld),
            "kld_median": clusters.quantile(positions.kld, 0.5),
            "kld_p99": clusters.quantile(positions.kld, 0.99),
            "kld_p999": clusters.quantile(positions.kld, 0.999),
            "top1": clusters.mean(positions.agrees.astype(np.float64)),
            "top1_decided": clusters.mean((positions.agrees | ambiguous).astype(np.float64)),
            "ppl_reference": _exponential(clusters.mean(nll[0])),
            "ppl_candidate": _exponential(clusters.mean(nll[1])),
            "ppl_ratio": _exponential(clusters.mean(nll[1] - nll[0])),
            "rms_logit_error": (noise, noise_se),
            "snr_db": (_decibels(noise), 20 / math.log(10) * noise_se / noise if noise > 0 else 0.0),
            "rms_delta_p": (math.sqrt(change), change_se / (2 * math.sqrt(change)) if change > 0 else 0.0),
        }
        paired = {f"{name}{end}": pair[at] for name, pair in values.items() for at, end in enumerate(("", "_se"))}
        return Aggregate(
            tokens=len(positions.kld),
            nonfinite=int((~positions.finite).sum()),
            kld_max=float(positions.kld.max()),
            ambiguous=int(ambiguous.sum()),
            max_logit_error=float(np.where(positions.max_error > 0, positions.max_error / rms, 0.0).max()),
            **paired,
        )


def ambiguous_positions(positions: Positions, *, near_tie: float) -> Mask:
    """(R,) disagreements where the reference's margin is below `near_tie` of rms(logit)."""
    undecided: Mask = positions.margin < near_tie * np.sqrt(positions.mean_square)
    return ~positions.agrees & positions.finite & undecided


def paired_excess(budget: Positions, found: Positions) -> tuple[float, float]:
    """Mean KLD that one comparison has beyond another at the same positions, and its standard error, nats.

    Raises:
        ValueError: The positions are not the same.
    """
    if not (np.array_equal(budget.window, found.window) and np.array_equal(budget.position, found.position)):
        raise ValueError("the two comparisons are not of the same positions")
    with np.errstate(invalid="ignore"):
        return _Clusters(found).mean(found.kld - budget.kld)


class _Clusters:
    """Which positions belong together, and the statistics of sums over them."""

    def __init__(self, positions: Positions) -> None:
        pairs = np.stack([positions.window, positions.position // CLUSTER], axis=1)
        self._of: Index = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
        self._count = int(self._of.max()) + 1

    def error(self, influence: Array) -> float:
        """Standard error of a mean whose positions differ from it by `influence`."""
        if self._count < 2:
            return math.nan
        sums = np.bincount(self._of, influence, self._count)
        return float(np.sqrt(np.square(sums).sum() * self._count / (self._count - 1)) / len(influence))

    def mean(self, values: Array) -> tuple[float, float]:
        """Mean and its standard error."""
        mean = float(values.mean())
        return mean, self.error(values - mean)

    def quantile(self, values: Array, share: float) -> tuple[float, float]:
        """The smallest value that at least `share` of the positions do not exceed, and its standard error."""
        # An interpolated quantile would mix in infinite values.
        found = float(np.quantile(values, share, method="inverted_cdf"))
        below = (values <= found).astype(np.float64)
        spread = self.error(below - below.mean())
        if not math.isfinite(spread):
            return found, math.nan
        # No position lies beyond a quantile that all reach: one position is the least that the share can err.
        spread = max(spread, 1 / len(values))
        ends = np.quantile(values, np.clip([share - spread, share + spread], 0, 1), method="inverted_cdf")
        return found, float(ends[1] - ends[0]) / 2


def _exponential(pair: tuple[float, float]) -> tuple[float, float]:
    mean, error = pair
    value = float(np.exp(mean))
    return value, value * error


def _rms_ratio(positions: Positions, clusters: _Clusters) -> tuple[float, float]:
    error, signal = positions.mean_square_error, positions.mean_square
    if not error.any():
        return 0.0, 0.0
    ratio = float(np.sqrt(error.mean() / signal.mean()))
    influence = error / error.mean() - signal / signal.mean()
    return ratio, ratio / 2 * clusters.error(influence)


def _decibels(ratio: float) -> float:
    return -20 * math.log10(ratio) if ratio > 0 else math.inf


@dataclass(frozen=True)
class Histogram:
    """Positions by their KLD, in bins of equal width in log10."""

    edges: Items[Figure]
    """Bin edges in nats, one more than counts, ascending; smaller and larger values are in the end bins."""
    counts: Items[Count]
    """Positions in each bin."""


@dataclass(frozen=True)
class Bucket:
    """Positions of all windows within a range of the conversation."""

    start: Count
    """First position."""
    end: Size
    """One behind the last position."""
    tokens: Count
    """Positions in it."""
    kld_mean: Positive
    """Mean KLD, nats."""
    kld_mean_se: Positive
    """Its standard error."""


def histogram(positions: Positions) -> Histogram:
    """How the KLD is distributed; empty bins at both ends are left out."""
    edges = 10.0 ** (np.arange(_LOWEST * _BINS_PER_DECADE, _HIGHEST * _BINS_PER_DECADE + 1) / _BINS_PER_DECADE)
    inside = np.clip(positions.kld, edges[0], edges[-1])
    counts = np.histogram(inside, edges)[0]
    used = np.flatnonzero(counts)
    first, last = int(used[0]), int(used[-1])
    return Histogram(tuple(edges[first : last + 2].tolist()), tuple(counts[first : last + 1].tolist()))


def along_position(
    positions: Positions, edges: Sequence[int] = (0, 8, 16, 32, 64, 128, 256)
) -> tuple[Bucket, ...]:
    """Mean KLD by place in the conversation: an error that grows along it is one of the cache or of positions.

    Args:
        positions: What was compared.
        edges: Where buckets begin; each further one is twice as far.
    """
    bounds = list(edges)
    while bounds[-1] <= int(positions.position.max()):
        bounds.append(2 * bounds[-1])
    buckets = []
    for start, end in itertools.pairwise(bounds):
        inside = (positions.position >= start) & (positions.position < end)
        if inside.any():
            part = positions.select(inside)
            with np.errstate(invalid="ignore"):
                mean, error = _Clusters(part).mean(part.kld)
            buckets.append(Bucket(start, end, int(inside.sum()), mean, error))
    return tuple(buckets)
