"""Which weights float16 can hold, for runtimes that have no other type."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from helium_edge.errors import CheckpointError
from helium_edge.quant.affine import QuantizedWeight, dequantize
from helium_edge.quant.parallel import map_rows

# Rounding to float16 costs 2e-4 rms where nothing is subnormal; ten times that is no longer the same weight.
_LARGEST_ROUNDING = 2e-3


class _Rounding(NamedTuple):
    """What float16 does to some rows: their largest value before and after, and sums of squares."""

    peak: float
    half_peak: float
    noise: float
    signal: float


def check_half(name: str, weight: QuantizedWeight | Tensor) -> None:
    """Refuse a weight that float16 turns into infinity, or loses to underflow.

    Args:
        name: Of the tensor, for the message.
        weight: As the store has it.

    Raises:
        CheckpointError: Some value exceeds 65504, or rounding changes the tensor by more than 0.2 % rms.
    """
    if isinstance(weight, Tensor):
        rows = weight.reshape(len(weight), -1)
        found = map_rows(lambda chunk: _rounding(rows[chunk], rows[chunk]), *rows.shape)
    else:
        found = map_rows(lambda chunk: _quantized_rounding(weight, chunk), *weight.shape)
    peak = max(part.peak for part in found)
    noise, signal = sum(part.noise for part in found), sum(part.signal for part in found)
    trouble = None
    if not all(math.isfinite(part.half_peak) for part in found):
        trouble = f"the largest value is {peak:g}; this target runs in float16, which ends at 65504"
    elif noise > _LARGEST_ROUNDING**2 * signal:
        trouble = f"its values, {peak:g} at most, are too small for float16, in which this target runs"
    if trouble is not None:
        raise CheckpointError(f"tensor {name}: {trouble}", hint="export this model for another target")


def _quantized_rounding(weight: QuantizedWeight, rows: slice) -> _Rounding:
    points = None if weight.zero_points is None else weight.zero_points[rows]
    scales = weight.scales[rows]
    exact, rounded = (
        dequantize(QuantizedWeight(weight.scheme, weight.codes[rows], each, points))
        for each in (scales, scales.to(torch.float16).to(torch.float32))
    )
    return _rounding(exact, rounded)


def _rounding(exact: Tensor, given: Tensor) -> _Rounding:
    """Compare with what becomes of `given` in float16."""
    half = given.to(torch.float16).to(torch.float32)
    peak = float(exact.abs().max())
    # Divided by the peak, so that squares of small weights do not vanish; outside they are float64.
    unit = peak or 1.0
    noise, signal = (half / unit - exact / unit).square().sum(), (exact / unit).square().sum()
    return _Rounding(peak, float(half.abs().max()), float(noise) * peak**2, float(signal) * peak**2)
