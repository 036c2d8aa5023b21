"""`calibrated`: one matrix from its weights and the statistics of its inputs to codes and scales."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override

from helium_edge.quant.affine import QuantizedWeight
from helium_edge.quant.calibrated.gptq import round_gptq
from helium_edge.quant.calibrated.refine import refine
from helium_edge.quant.calibrated.statistics import (
    InputStatistics,
    damped,
    inverse_factor,
    lower_factor,
)
from helium_edge.quant.calibrated.target import corrected_target
from helium_edge.quant.parallel import alone
from helium_edge.recipe import Scheme

CORRECTION = 10.0
"""Damping of the target's correction over that of the Hessian: it is fitted to the text more freely otherwise."""


class CalibratedMethod(Protocol):
    """Turns matrices that read one input into codes and scales, by statistics of that input."""

    def __call__(
        self, weights: Sequence[Tensor], statistics: InputStatistics, scheme: Scheme
    ) -> list[QuantizedWeight]:
        """Quantize.

        Args:
            weights: Each (N, K) float32, finite; the rows of all are independent of each other.
            statistics: Of their common input.
            scheme: Their numeric format; its group size divides K.

        Returns:
            One result a weight, the same for the same input, whatever the number of threads.
        """
        ...


@dataclass(frozen=True)
class Calibrated(CalibratedMethod):
    """GPTQ on a corrected target, then rounds of scale refit and code descent.

    Attributes:
        damping: Added to the diagonal of the Hessian, in its mean.
        rounds: Of refit and descent.
    """

    damping: float
    rounds: int

    @override
    def __call__(
        self, weights: Sequence[Tensor], statistics: InputStatistics, scheme: Scheme
    ) -> list[QuantizedWeight]:
        stacked = torch.cat(list(weights)) if len(weights) > 1 else weights[0]
        # One after the other: in float64 each of them takes as much memory as a layer of 2 billion parameters.
        target = self._target(stacked, statistics)
        factor = alone(lambda share: inverse_factor(statistics.hessian, share), self.damping).to(torch.float32)
        found = round_gptq(target, factor, scheme)
        del factor
        found = refine(found, target, damped(statistics.hessian, self.damping).to(torch.float32), self.rounds)
        return _split(found, [len(weight) for weight in weights])

    def _target(self, weight: Tensor, statistics: InputStatistics) -> Tensor:
        if statistics.shift is None:
            return weight
        lower = alone(lower_factor, damped(statistics.hessian, self.damping * CORRECTION))
        return corrected_target(weight, statistics, lower)


def _split(weight: QuantizedWeight, rows: Sequence[int]) -> list[QuantizedWeight]:
    ends = itertools.accumulate(rows)
    return [
        QuantizedWeight(
            weight.scheme,
            weight.codes[end - count : end],
            weight.scales[end - count : end],
            None if weight.zero_points is None else weight.zero_points[end - count : end],
        )
        for end, count in zip(ends, rows, strict=True)
    ]
