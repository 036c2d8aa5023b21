"""What calibration keeps of the inputs of a matrix: second moments, over all tokens of the text.

Shapes: T tokens, K input channels. X are the inputs that the original model gives the matrix, X~ those of the
model whose earlier matrices are quantized already, both of the same text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from helium_edge.quant.parallel import map_pieces, product, spans

_MOMENT_ROWS = 256
"""Rows of a second moment that one thread computes."""


@dataclass(frozen=True, eq=False)
class InputStatistics:
    """Second moments of the inputs of a matrix.

    Attributes:
        hessian: (K, K) float32, X~' X~ / T: half the Hessian of the squared error of an output, for every row.
        shift: (K, K) float32, (X - X~)' X~ / T: what the inputs have lost so far; None where X~ is X.
    """

    hessian: Tensor
    shift: Tensor | None = None


def collect(quantized: Tensor, reference: Tensor | None = None) -> InputStatistics:
    """Statistics of inputs.

    Args:
        quantized: X~, (T, K) float32.
        reference: X, (T, K) float32; None where it is the same.
    """
    hessian = second_moment(quantized)
    if reference is None:
        return InputStatistics(hessian)
    return InputStatistics(hessian, product((reference - quantized).t(), quantized).div_(len(quantized)))


def second_moment(inputs: Tensor) -> Tensor:
    """X' X / T, (K, K), exactly symmetric."""
    columns = inputs.shape[1]
    moment = torch.empty(columns, columns)

    def work(rows: slice) -> None:
        # The lower half alone: the upper one is the same.
        moment[rows, : rows.stop] = inputs[:, rows].t() @ inputs[:, : rows.stop]

    map_pieces(work, spans(columns, _MOMENT_ROWS))
    moment.div_(len(inputs))
    upper = moment.tril(-1).t()
    return moment.tril_().add_(upper)


def mean_squares(inputs: Tensor) -> Tensor:
    """Mean square of each channel, (T, K) to (K,) float32."""
    pieces = map_pieces(lambda columns: inputs[:, columns].square().mean(dim=0), spans(inputs.shape[1], 64))
    return torch.cat(pieces)


def damped(hessian: Tensor, share: float) -> Tensor:
    """H + share * mean(diag H) * I in float64, (K, K); of a moment of zeros, the identity.

    A channel that the text never uses keeps a small weight of its own: its weights are rounded, not dropped.
    """
    result = hessian.to(torch.float64, copy=True)
    mean = float(result.diagonal().mean())
    if mean == 0.0:
        return torch.eye(len(hessian), dtype=torch.float64)
    result.diagonal().add_(share * mean)
    return result


def lower_factor(matrix: Tensor) -> Tensor:
    """The lower L with L L' = a positive definite (K, K) float64 matrix."""
    factor: Tensor = torch.linalg.cholesky(matrix)
    return factor


def inverse_factor(hessian: Tensor, share: float) -> Tensor:
    """The upper U with U' U = inverse of `damped(hessian, share)`, (K, K) float64.

    Row j of U, divided by U_jj, says how later columns make up best for an error in column j.
    """
    # No names for what is between: two of these matrices are in memory at most, 0.4 GB each in Helium 2B.
    inverse = torch.cholesky_inverse(lower_factor(damped(hessian, share)))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor
