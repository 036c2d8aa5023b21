"""Weights as CoreML holds them: float16, or the integers of the store behind a constant dequantization.

A quantized matrix is kept as codes and float16 scales and dequantized by `torchao::dequantize_affine`, which
becomes `constexpr_blockwise_shift_scale` (iOS 18) or `constexpr_affine_dequantize` (iOS 17): the integers in the
package are those of the store. What float16 does to the scales:

- 4-bit scales are representable in bfloat16, whose 8 significant bits fit in float16's 11: they are exact from
  2**-17 to 65504. Weights of such a group are at least 8e-6 apart, so released models stay well above the limit.
- int8 scales are float32 and round to 11 bits: at most 2**-11 off, for a whole row alike.
- Below 2**-17 a scale keeps fewer bits; below 2**-25 it is 0, as for a row of zeros, whose codes are 0 as well.

The dequantized weight is rounded to float16 once more, as an unquantized weight is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from helium_edge.errors import CheckpointError
from helium_edge.quant import QuantizedStore, QuantizedWeight, dequantize
from helium_edge.quant.affine import row_chunks

# Rounding to float16 costs 2e-4 rms where nothing is subnormal; ten times that is no longer the same weight.
_LARGEST_ROUNDING = 2e-3


class HalfMatrix(torch.nn.Module):
    """An unquantized matrix; calling it gives (N, K) float16."""

    layout = "float16"
    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self) -> Tensor:
        """(N, K) float16."""
        return self.weight


class QuantizedMatrix(torch.nn.Module):
    """A quantized matrix; calling it gives (N, K) float16, dequantized in the graph.

    Args:
        weight: As the store has it; asymmetric codes and zero points move from [0, 15] to [-8, 7].
    """

    def __init__(self, weight: QuantizedWeight) -> None:
        super().__init__()
        self.weight = weight
        scheme = weight.scheme
        self.layout = str(scheme)
        self.limits = (-8, 7) if scheme.bits == 4 else (-128, 127)
        self.block = (1, scheme.group_size or weight.shape[1])
        self.register_buffer("codes", weight.codes if scheme.symmetric else weight.codes - 8)
        self.register_buffer("scales", weight.scales.to(torch.float16))
        self.register_buffer("zeros", None if weight.zero_points is None else weight.zero_points - 8)

    def forward(self) -> Tensor:
        """(N, K) float16."""
        result: Tensor = torch.ops.torchao.dequantize_affine(
            self.codes, self.block, self.scales, self.zeros, torch.int8, *self.limits, output_dtype=torch.float16
        )
        return result


def load_matrix(store: QuantizedStore, name: str) -> HalfMatrix | QuantizedMatrix:
    """A matrix of the store, ready for the graph.

    Raises:
        CheckpointError: The weight cannot be held in float16; see `check_half`.
    """
    weight = store.get(name)
    if isinstance(weight, QuantizedWeight):
        scales = weight.scales.to(torch.float16).to(torch.float32)
        rounded = QuantizedWeight(weight.scheme, weight.codes, scales, weight.zero_points)
        check_half(name, dequantize(weight), dequantize(rounded).to(torch.float16))
        return QuantizedMatrix(weight)
    return HalfMatrix(check_half(name, weight, weight.to(torch.float16)))


def stack_matrices(matrices: Sequence[HalfMatrix | QuantizedMatrix]) -> HalfMatrix | QuantizedMatrix:
    """One matrix over the others, all of one layout; the integers stay what they are."""
    if len(matrices) == 1:
        return matrices[0]
    dense = [matrix.weight for matrix in matrices if isinstance(matrix, HalfMatrix)]
    if dense:
        return HalfMatrix(torch.cat(dense))
    parts = [matrix.weight for matrix in matrices if isinstance(matrix, QuantizedMatrix)]
    points = [part.zero_points for part in parts if part.zero_points is not None]
    return QuantizedMatrix(
        QuantizedWeight(
            parts[0].scheme,
            torch.cat([part.codes for part in parts]),
            torch.cat([part.scales for part in parts]),
            torch.cat(points) if points else None,
        )
    )


def check_half(name: str, exact: Tensor, half: Tensor) -> Tensor:
    """Refuse a weight that float16 turns into infinity, or loses to underflow.

    Args:
        name: Of the tensor, for the message.
        exact: As the store has it, float32.
        half: The same in float16.

    Returns:
        `half`.

    Raises:
        CheckpointError: Some value exceeds 65504, or rounding changes the tensor by more than 0.2 % rms.
    """
    peak = float(exact.abs().max())
    if not bool(torch.isfinite(half).all()):
        raise CheckpointError(
            f"tensor {name}: the largest value is {peak:g}; CoreML runs in float16, which ends at 65504",
            hint="export this model for another target",
        )
    noise = signal = 0.0
    if peak > 0.0:
        rows = exact.reshape(len(exact), -1)
        for chunk in row_chunks(*rows.shape):
            # Divided by the peak, so that squares of small weights do not vanish.
            scaled = rows[chunk] / peak
            noise += float((half.reshape(rows.shape)[chunk].to(torch.float32) / peak - scaled).square().sum())
            signal += float(scaled.square().sum())
    if noise > _LARGEST_ROUNDING**2 * signal:
        raise CheckpointError(
            f"tensor {name}: its values, {peak:g} at most, are too small for float16, in which CoreML runs",
            hint="export this model for another target",
        )
    return half
