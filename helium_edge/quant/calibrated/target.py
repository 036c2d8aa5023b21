"""The target of a matrix: the weights that give the original's outputs from the inputs that the export has.

Least squares over the text: ||W X' - Q X~'||^2 = ||(W* - Q) X~'||^2 + constant, with
W* = W + W C (H + l I)^-1, and any method that rounds under H goes on from W* as it would from W.

Source: Qronos (https://arxiv.org/abs/2505.11695), its correction step; GPTAQ (https://arxiv.org/abs/2504.02692).
"""

from __future__ import annotations

import torch
from torch import Tensor

from helium_edge.quant.calibrated.statistics import InputStatistics
from helium_edge.quant.parallel import map_pieces, product, spans

_SOLVE_COLUMNS = 640
"""Right-hand sides that one thread solves for."""


def corrected_target(weight: Tensor, statistics: InputStatistics, factor: Tensor) -> Tensor:
    """W*, (N, K) float32; W itself where the inputs have lost nothing.

    Args:
        weight: W, (N, K) float32.
        statistics: Of its inputs.
        factor: (K, K) float64, the lower Cholesky factor of H + l I.
    """
    if statistics.shift is None:
        return weight
    rows, columns = weight.shape
    if rows > columns:  # fewer right-hand sides so
        change = _solve(statistics.shift, factor)
        return weight + product(weight, change)
    return weight + _solve(product(weight, statistics.shift), factor)


def _solve(rows: Tensor, factor: Tensor) -> Tensor:
    """Solve: rows @ (L L')^-1 in float32, for a lower factor L in float64."""
    out = torch.empty_like(rows)

    def work(piece: slice) -> None:
        # Two triangles give the bits of `cholesky_solve`, which copies the factor in every thread.
        half = torch.linalg.solve_triangular(factor, rows[piece].t().to(torch.float64), upper=False)
        out[piece] = torch.linalg.solve_triangular(factor.mT, half, upper=True).t().to(torch.float32)

    map_pieces(work, spans(len(rows), _SOLVE_COLUMNS))
    return out
