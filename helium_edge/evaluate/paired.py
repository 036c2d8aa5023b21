"""Two models on the same questions: the difference, its error, and what surely is worse.

Both answer every question, so what is judged is the difference question by question; its error is several times
smaller than that of two separate accuracies. Shares are from 0 to 1 here, and points (percent) in reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

Z = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""

Verdict = Literal["holds", "worse", "undecided"]


@dataclass(frozen=True)
class Difference:
    """A paired difference, artifact less original.

    Attributes:
        value: Mean over questions.
        se: Its standard error; NaN of a single question.
        low: Lower end of its 95 % interval.
        high: Upper end.
        spread: Standard error that the interval stands on, which is never 0 because no answer changed.
    """

    value: float
    se: float
    low: float
    high: float
    spread: float


def mean_difference(original: Floats, artifact: Floats) -> Difference:
    """The difference of two figures per question, with the interval of the normal distribution.

    Args:
        original: (n,) figures.
        artifact: (n,) of the same questions.
    """
    changes = artifact - original
    value, se = float(changes.mean()), standard_error(changes)
    return Difference(value, se, value - Z * se, value + Z * se, se)


def share_difference(original: Floats, artifact: Floats) -> Difference:
    """The difference of two shares of right answers, with Agresti and Min's interval.

    With half a count more in each cell of the two by two table, the interval also holds where few answers changed
    (Agresti and Min, Statistics in Medicine 24, 2005).

    Args:
        original: (n,) 0 or 1 per question.
        artifact: (n,) of the same questions.
    """
    changes = artifact - original
    middle, spread = agresti_min(len(changes), *flips(original, artifact))
    return Difference(
        float(changes.mean()), standard_error(changes), middle - Z * spread, middle + Z * spread, spread
    )


def agresti_min(questions: int, lost: int, gained: int) -> tuple[float, float]:
    """Middle of the interval and its standard error."""
    n, less, more = questions + 2.0, lost + 0.5, gained + 0.5
    return (more - less) / n, math.sqrt(less + more - (more - less) ** 2 / n) / n


def standard_error(values: Floats) -> float:
    """Standard error of a mean; NaN of a single value."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def flips(original: Floats, artifact: Floats) -> tuple[int, int]:
    """Questions that the artifact lost, and those that it gained."""
    return int(((original == 1) & (artifact == 0)).sum()), int(((original == 0) & (artifact == 1)).sum())


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p value of so many questions lost and gained, were both equally likely."""
    n = lost + gained
    tail: int = sum(math.comb(n, k) for k in range(min(lost, gained) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**n)))


def bootstrap(
    original: npt.NDArray[np.int64], artifact: npt.NDArray[np.int64], figure: Callable[[Floats], Floats], *,
    draws: int = 1000, seed: int = 0,
) -> Difference:  # fmt: skip
    """The difference of a figure of a whole corpus, as BLEU is, by drawing its sentences anew, the same for both.

    Args:
        original: (n, K) counts of each sentence, which add up over a corpus.
        artifact: (n, K) of the same sentences.
        figure: Figures of corpora, (D, K) to (D,).
        draws: How many corpora are drawn.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    n = len(original)
    # How often each sentence is drawn: (draws, n).
    weights = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    drawn = figure(weights @ artifact) - figure(weights @ original)
    whole = [figure(counts.sum(axis=0, keepdims=True).astype(np.float64))[0] for counts in (artifact, original)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    se = float(drawn.std(ddof=1))
    return Difference(float(whole[0] - whole[1]), se, float(low), float(high), se)


def mean_of(differences: Sequence[Difference]) -> Difference:
    """The mean of the differences of several tasks, whose questions have nothing to do with each other."""
    count = len(differences)
    value = sum(each.value for each in differences) / count
    se = math.sqrt(sum(each.se**2 for each in differences)) / count
    spread = math.sqrt(sum(each.spread**2 for each in differences)) / count
    middle = sum((each.low + each.high) / 2 for each in differences) / count
    return Difference(value, se, middle - Z * spread, middle + Z * spread, spread)


def judge(difference: Difference, gate: float, *, z: float = Z) -> Verdict:
    """Whether a difference keeps to a gate.

    Args:
        difference: What was measured.
        gate: The largest drop that is allowed, in the unit of the difference.
        z: Standard errors that the gate must be away to be sure.

    Returns:
        `worse` when the whole interval lies below the gate, `holds` when the whole lies above, else `undecided`.
    """
    middle = (difference.low + difference.high) / 2
    if middle + z * difference.spread < -gate:
        return "worse"
    return "holds" if middle - z * difference.spread > -gate else "undecided"


def too_few(difference: Difference, gate: float) -> bool:
    """Whether there are too few questions to judge a gate: the error is more than half of it."""
    return not difference.spread <= gate / 2
