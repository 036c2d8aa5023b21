"""GPTQ: round a matrix column by column, each error made up for by the columns that follow.

Columns are taken in their natural order. The scales of a group are searched when its first column is reached, on
weights that have already made up for earlier errors; an error in column j then costs 1 / U_jj^2, which is what is
left of it after the later columns have done their part.

Shapes: N output channels, K input channels, G groups of g along K. Inside, matrices are (K, N): a column of
weights is then contiguous.

Source: Frantar et al., GPTQ (https://arxiv.org/abs/2210.17323), algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from helium_edge.quant.affine import QuantizedWeight, code_range, group_count
from helium_edge.quant.parallel import map_pieces, spans
from helium_edge.quant.scale_search import search_scales
from helium_edge.recipe import Scheme

ROWS = 640
"""Rows that one thread works on; rows are independent of each other."""

BLOCK = 128
"""Columns whose errors are handed on at once. A multiple of every group size."""


def round_gptq(target: Tensor, factor: Tensor, scheme: Scheme) -> QuantizedWeight:
    """Round a matrix under a Hessian.

    Args:
        target: (N, K) float32, finite.
        factor: (K, K) float32, upper: `statistics.inverse_factor` of the damped Hessian.
        scheme: The numeric format.
    """
    rows, columns = target.shape
    groups = group_count(scheme, columns)
    codes = torch.empty(rows, columns, dtype=torch.int8)
    scales = torch.empty(rows, groups)
    zeros = None if scheme.symmetric else torch.empty(rows, groups, dtype=torch.int8)

    def work(piece: slice) -> None:
        found = _round_rows(target[piece], factor, scheme)
        codes[piece], scales[piece] = found[0].t(), found[1].t()
        if zeros is not None and found[2] is not None:
            zeros[piece] = found[2].t()

    map_pieces(work, spans(rows, ROWS))
    return QuantizedWeight(scheme, codes, scales, zeros)


def _round_rows(target: Tensor, factor: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes (K, N), scales (G, N) and zero points (G, N) or None, as float32, of some rows (N, K)."""
    weights = target.t().clone(memory_format=torch.contiguous_format)  # a single row would be the caller's own
    columns, rows = weights.shape
    size = columns // group_count(scheme, columns)
    diagonal = factor.diagonal()
    price = diagonal.square().reciprocal()
    price = price / price.max()
    low, high = code_range(scheme)
    codes = torch.empty_like(weights)
    scales = torch.empty(columns // size, rows)
    zeros = None if scheme.symmetric else torch.empty_like(scales)
    for block in spans(columns, BLOCK):
        # This view takes up the errors of the block's own columns at once; later blocks take them together.
        part, errors = weights[block], torch.empty(block.stop - block.start, rows)
        within = factor[block, block]
        for place in range(len(part)):
            column = block.start + place
            group, first = divmod(column, size)
            if first == 0:
                chosen = weights[column : column + size].t().contiguous().unsqueeze(1)
                found, points = search_scales(chosen, scheme, price[column : column + size].unsqueeze(0))
                scales[group] = found[:, 0]
                if zeros is not None and points is not None:
                    zeros[group] = points[:, 0]
            code = torch.div(part[place], scales[group]).round_()
            if zeros is None:
                code.clamp_(low, high)
                codes[column] = code
            else:
                code.add_(zeros[group]).clamp_(low, high)
                codes[column] = code
                code.sub_(zeros[group])
            error = part[place].sub(code.mul_(scales[group])).div_(diagonal[column])
            errors[place] = error
            part[place + 1 :].addr_(within[place, place + 1 :], error, alpha=-1)
        if block.stop < columns:
            weights[block.stop :].addmm_(factor[block, block.stop :].t(), errors, alpha=-1)
    return codes, scales, zeros
