"""Two ways to lower the loss of a matrix that is rounded already: better scales for its codes, and better codes.

The loss of a row is (q s - w)' H (q s - w), q s being its dequantized weights. Scales are refitted by least
squares over all groups of the row together; codes are moved one at a time, each to the best value given all others
(coordinate descent). Neither raises the loss.

Shapes: N output channels, K input channels, G groups of g along K. Inside, matrices are (K, N).
"""

from __future__ import annotations

import torch
from torch import Tensor

from helium_edge.quant.affine import QuantizedWeight, code_range, round_scales
from helium_edge.quant.calibrated.gptq import BLOCK, INNER, ROWS
from helium_edge.quant.parallel import map_pieces, spans
from helium_edge.recipe import Scheme

_GRAM_ELEMENTS = 1 << 22
"""Numbers of the matrices A, (G, G) a row, that are in memory at a time: 32 MiB."""

_RIDGE = 1e-6
"""Added to the diagonal of A, in its mean: of codes that are all zero the scale does not matter."""

_NARROWEST, _WIDEST = 0.5, 2.0
"""Factors between which a scale may move in one step."""


def refine(weight: QuantizedWeight, target: Tensor, hessian: Tensor, rounds: int) -> QuantizedWeight:
    """Refit the scales, then descend on the codes, `rounds` times.

    Args:
        weight: Codes and scales to start from.
        target: (N, K) float32: what they stand for.
        hessian: (K, K) float32, damped, symmetric.
        rounds: How often; 0 returns the weight.
    """
    if rounds < 1:
        return weight
    codes, scales = torch.empty_like(weight.codes), torch.empty_like(weight.scales)

    def work(piece: slice) -> None:
        zeros = None if weight.zero_points is None else weight.zero_points[piece]
        start = QuantizedWeight(weight.scheme, weight.codes[piece], weight.scales[piece], zeros)
        rows = _Rows(start, target[piece], hessian)
        for _ in range(rounds):
            rows.refit()
            rows.descend()
        codes[piece], scales[piece] = rows.codes(), rows.scales.t()

    map_pieces(work, spans(len(target), ROWS))
    return QuantizedWeight(weight.scheme, codes, scales, weight.zero_points)


class _Rows:
    """Some rows of a weight, and the slope of their loss.

    Args:
        weight: Codes and scales.
        target: (N, K) float32.
        hessian: (K, K) float32.

    Attributes:
        steps: (K, N), codes less the zero point.
        scales: (G, N).
        slope: (K, N), H (q s - w): half the derivative of the loss by each dequantized weight.
    """

    def __init__(self, weight: QuantizedWeight, target: Tensor, hessian: Tensor) -> None:
        self._scheme: Scheme = weight.scheme
        self._hessian = hessian
        self.scales = weight.scales.t().contiguous()
        self._size = target.shape[1] // len(self.scales)
        self.steps = weight.codes.t().to(torch.float32, memory_format=torch.contiguous_format)
        self._zeros = None
        if weight.zero_points is not None:
            self._zeros = weight.zero_points.t().to(torch.float32, memory_format=torch.contiguous_format)
            self.steps -= self._zeros.repeat_interleave(self._size, dim=0)
        self.slope = hessian @ (self.steps * self._spread(self.scales) - target.t())

    def codes(self) -> Tensor:
        """(N, K), as the weight has them."""
        steps = self.steps if self._zeros is None else self.steps + self._spread(self._zeros)
        return steps.t().to(torch.int8)

    def refit(self) -> None:
        """Take least-squares scales, rounded to what runtimes hold, in rows that are better for it.

        With A_gh = q_g' H_gh q_h a change d of the scales changes the loss by d' A d - 2 d' r, r_g = -q_g'
        slope_g.
        """
        groups, rows = self.scales.shape
        pull = -(self.steps * self.slope).view(groups, self._size, rows).sum(dim=1).t().to(torch.float64)
        fitted = torch.empty_like(self.scales)
        for piece in spans(rows, max(1, _GRAM_ELEMENTS // groups**2)):
            gram, wish = self._gram(piece), pull[piece]
            ridge = gram.diagonal(dim1=1, dim2=2).mean(dim=1).mul(_RIDGE).add(1e-30)
            eased = gram + torch.diag_embed(ridge[:, None].expand(-1, groups))
            old = self.scales[:, piece].t()
            new = old + torch.linalg.solve(eased, wish.unsqueeze(-1)).squeeze(-1).to(torch.float32)
            inside = (new > _NARROWEST * old) & (new < _WIDEST * old)  # NaN is not
            new = round_scales(torch.where(inside, new, old), self._scheme)
            step = (new - old).to(torch.float64)
            gain = torch.einsum("ng,ngh,nh->n", step, gram, step) - 2 * (step * wish).sum(dim=1)
            fitted[:, piece] = torch.where(gain[:, None] < 0, new, old).t()
        self.slope.addmm_(self._hessian, self.steps * self._spread(fitted - self.scales))
        self.scales = fitted

    def descend(self) -> int:
        """Move each code once to its best value, in the order of the columns; says how many moved."""
        low, high = code_range(self._scheme)
        columns, moved = len(self.steps), 0
        curvatures, scales = self._hessian.diagonal().tolist(), self.scales.unbind()
        for block in spans(columns, BLOCK):
            slope = self.slope[block].clone()
            changes = torch.empty_like(slope)
            for inner in spans(len(slope), INNER):
                start = block.start + inner.start
                part = slope[inner]
                within = self._hessian[start : start + len(part), start : start + len(part)]
                steps = self.steps[start : start + len(part)]
                rows = zip(changes[inner], steps, part, within, strict=True)
                for column, (change, step, pull, row) in enumerate(rows, start):
                    group = column // self._size
                    scale = scales[group]
                    torch.addcdiv(step, pull, scale, value=-1 / curvatures[column], out=change)
                    if self._zeros is None:
                        change.round_().clamp_(low, high)
                    else:
                        zeros = self._zeros[group]
                        change.round_().add_(zeros).clamp_(low, high).sub_(zeros)
                    step.add_(change.sub_(step))
                    part.addr_(row, change.mul_(scale))  # also to columns that are done, which nobody reads
                ahead = slice(start + len(part), block.stop)
                slope[inner.stop :].addmm_(self._hessian[ahead, start : start + len(part)], changes[inner])
            moved += int(torch.count_nonzero(changes))
            self.slope.addmm_(self._hessian[:, block], changes)
        return moved

    def _gram(self, rows: slice) -> Tensor:
        """A of some rows, (n, G, G) float64, exactly symmetric."""
        groups = len(self.scales)
        steps = self.steps[:, rows].t().contiguous()
        gram = torch.zeros(len(steps), groups, groups, dtype=torch.float64)
        for group, columns in enumerate(spans(steps.shape[1], self._size)):
            # Later groups alone: the others follow from symmetry.
            ahead = steps[:, columns] @ self._hessian[columns, columns.start :]
            ahead.mul_(steps[:, columns.start :])
            gram[:, group, group:] = ahead.view(len(steps), -1, self._size).sum(dim=-1)
        return gram + gram.triu(1).transpose(1, 2)

    def _spread(self, values: Tensor) -> Tensor:
        """(G, N) to (K, N)."""
        return values.repeat_interleave(self._size, dim=0)
