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

BLOCK, INNER = 128, 16
"""Columns whose errors are handed on at once, to all that follow and to those of the block. What follows within
the inner ones is met column by column: a product for each takes more time than the rest of the loop."""


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
    divisors = diagonal.tolist()
    codes = torch.empty_like(weights)
    scales = torch.empty(columns // size, rows)
    zeros = None if scheme.symmetric else torch.empty_like(scales)
    # These views take up errors: a column those of its inner block, an inner block those of its block, at once.
    for block in spans(columns, BLOCK):
        errors = torch.empty(block.stop - block.start, rows)
        for inner in spans(block.stop - block.start, INNER):
            start, stop = block.start + inner.start, min(block.start + inner.stop, block.stop)
            part, within = weights[start:stop], factor[start:stop, start:stop]
            for column, (weight, error, row) in enumerate(zip(part, errors[inner], within, strict=True), start):
                group, first = divmod(column, size)
                if first == 0:
                    chosen = weights[column : column + size].t().contiguous().unsqueeze(1)
                    found, points = search_scales(chosen, scheme, price[column : column + size].unsqueeze(0))
                    scales[group] = found[:, 0]
                    if zeros is not None and points is not None:
                        zeros[group] = points[:, 0]
                    scale, zero = scales[group], None if zeros is None else zeros[group]
                code = torch.div(weight, scale, out=codes[column]).round_()
                if zero is None:
                    torch.addcmul(weight, code.clamp_(low, high), scale, value=-1, out=error)
                else:
                    code.add_(zero).clamp_(low, high)
                    torch.addcmul(weight, code - zero, scale, value=-1, out=error)
                error.div_(divisors[column])
                part.addr_(row, error, alpha=-1)  # also to columns that are done, which nobody reads
            weights[stop : block.stop].addmm_(factor[start:stop, stop : block.stop].t(), errors[inner], alpha=-1)
        weights[block.stop :].addmm_(factor[block, block.stop :].t(), errors, alpha=-1)
    return codes, scales, zeros
