"""Scale search: the scale of each group that minimises the squared error of its weights.

A grid of shrunk and stretched absmax scales, each rounded to what runtimes can hold before it is judged, then one
least-squares step: for fixed codes q the best scale is sum(w q) / sum(q q). Plain absmax is the first candidate
and ties keep it, so the result is never worse. The search ends early where no
smaller scale can be better.
"""

from __future__ import annotations

import torch

from helium_edge.quant.affine import absmax_scales, code_range, round_scales
from helium_edge.quant.scratch import scratch
from helium_edge.recipe import GROUP_SIZES, Scheme

# Factors on the absmax scale. Measured on Gaussian and Student-t5 weights in groups of 32 to 128: the best factor
# lies between 0.69 and 1.25 for all but 1 % of int4 groups; int8 channels gain nothing below 0.7.
_INT4_FACTORS = (*(step / 40 for step in range(41, 49)), *(step / 40 for step in range(39, 19, -1)))
_INT8_FACTORS = tuple(step / 100 for step in range(99, 69, -1))
"""Upwards from 1, then downwards: 1.025 to 1.2 and 0.975 to 0.5; 0.99 to 0.7."""

_BLOCK = 4
"""Candidates judged between two looks at whether any that follows can be of use."""

_ROUNDING_MARGIN = 1e-3
"""Far more than float32 arithmetic may be off, and too little to matter: no result depends on it."""


class _Judge:
    """Measures candidate scales for M groups of weights, in buffers that stay in cache.

    Groups lie side by side, (g, M): what is done with each weight and the scale of its group then runs along M,
    and sums over a group add whole rows, in the same order whatever the processor and the chunk. A channel,
    of which a chunk has only a few, stays as it is, (M, K).

    Args:
        groups: (M, g) float32, contiguous.
        code_range: Smallest and largest code.
        zero_points: (M,) or None.
        importance: (M, g) or None.
    """

    def __init__(
        self,
        groups: torch.Tensor,
        code_range: tuple[int, int],
        zero_points: torch.Tensor | None,
        importance: torch.Tensor | None,
    ) -> None:
        self._beside = groups.shape[1] in GROUP_SIZES
        if self._beside:
            groups = scratch("beside", groups.shape[::-1]).copy_(groups.t())
            importance = None if importance is None else importance.t()
        self._groups = groups
        self._importance = importance
        axis = 0 if self._beside else 1
        self._low, self._high = groups.amin(dim=axis), groups.amax(dim=axis)
        # Smallest and largest code minus zero point.
        self._range = code_range
        ends = [torch.tensor(float(end)) for end in code_range]
        self._first, self._last = ends if zero_points is None else [end - zero_points for end in ends]
        self._ratios, self._codes = scratch("ratios", groups.shape), scratch("codes", groups.shape)

    def errors(self, scales: torch.Tensor, out: torch.Tensor, *, clamp: bool = True) -> None:
        """Write the squared error of each group (M,), in squared units of its scale."""
        ratios, codes = self._round(scales, clamp=clamp)
        squares = _squared_difference(ratios, codes, out=codes)
        if self._importance is not None:
            squares.mul_(self._importance)
        self._sum(squares, out)

    def least_squares(self, scales: torch.Tensor) -> torch.Tensor:
        """The scales (M,), not yet rounded, that fit best the codes which `scales` leads to."""
        ratios, codes = self._round(scales)
        products = ratios.mul_(codes)
        squares = codes.square_()
        if self._importance is not None:
            products.mul_(self._importance)
            squares.mul_(self._importance)
        total, fit = torch.empty_like(scales), torch.empty_like(scales)
        self._sum(squares, total)
        self._sum(products, fit)
        return torch.where(total > 0, scales * (fit / total), scales)

    def needs_clamp(self, scales: torch.Tensor) -> bool:
        """Whether any weight rounds to more than the last code."""
        # Half a step beyond the last code still rounds to it.
        inside = (self._high < scales * (self._last + 0.49)) & (self._low > scales * (self._first - 0.49))
        return not bool(inside.all())

    def hopeless(self, scales: torch.Tensor, unit: torch.Tensor, errors: torch.Tensor) -> bool:
        """Whether neither these scales nor smaller ones come below these errors, given in squares of `unit`.

        The outermost weight of each group, cut off at the largest code, would alone err by more.
        """
        if self._importance is not None:
            return False
        cut = torch.maximum(self._high - scales * self._last, scales * self._first - self._low).clamp_(min=0.0)
        return bool((cut.div_(unit).square_() > errors * (1 + _ROUNDING_MARGIN)).all())

    def _round(self, scales: torch.Tensor, *, clamp: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights in units of the scale, and their codes minus the zero point; both valid until the next call."""
        steps = torch.reciprocal(scales, out=scratch("steps", scales.shape))
        torch.mul(self._groups, self._spread(steps), out=self._ratios)
        codes = torch.round(self._ratios, out=self._codes)
        if clamp and self._first.dim():
            torch.clamp(codes, self._spread(self._first), self._spread(self._last), out=codes)
        elif clamp:
            codes.clamp_(*self._range)
        return self._ratios, codes

    def _spread(self, values: torch.Tensor) -> torch.Tensor:
        """Values of groups (M,), to be combined with their weights."""
        return values if self._beside else values.unsqueeze(-1)

    def _sum(self, weights: torch.Tensor, out: torch.Tensor) -> None:
        """Write the sum over each group (M,)."""
        torch.sum(weights, dim=0 if self._beside else 1, out=out)


def _squared_difference(one: torch.Tensor, other: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """(one - other) squared, in one pass over both."""
    none = 0  # of the reductions that the operator knows
    found: torch.Tensor = torch.ops.aten.mse_loss.out(one, other, none, out=out)
    return found


def search_scales(
    groups: torch.Tensor, scheme: Scheme, importance: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Find scales of least squared error; zero points stay those of absmax (moving them gains 0.1 %).

    Args:
        groups: (N, G, g) float32, contiguous.
        scheme: The numeric format.
        importance: (G, g) float32, non-negative: weight of each column in the error; None weighs all alike.

    Returns:
        Scales (N, G) float32; zero points (N, G) float32, or None when symmetric.
    """
    absmax, zero_points = absmax_scales(groups, scheme)
    unit = absmax.view(-1)
    judge = _Judge(
        groups.view(len(unit), -1), code_range(scheme), None if zero_points is None else zero_points.view(-1),
        None if importance is None else importance.repeat(len(groups), 1),
    )  # fmt: skip
    scales, errors = _search_grid(judge, unit, scheme)
    refined = round_scales(judge.least_squares(scales), scheme)
    found = torch.empty_like(unit)
    judge.errors(refined, found)
    better = found.mul_((refined / unit).square_()) < errors
    return torch.where(better, refined, scales).view_as(absmax), zero_points


def _search_grid(judge: _Judge, unit: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """The best of all factors on the absmax scale, and its error in squares of `unit`; of equals, the first."""
    best, least = unit.clone(), torch.empty_like(unit)
    judge.errors(unit, least)
    # Memory that is taken anew for every candidate would be cleared page by page each time.
    scales, squares, errors = (scratch(name, unit.shape) for name in ("scales", "squares", "errors"))
    clamp = True
    for place, factor in enumerate(_INT8_FACTORS if scheme.bits == 8 else _INT4_FACTORS):
        # Cutting off costs all the more the smaller the scale: what is hopeless stays so.
        round_scales(torch.mul(unit, factor, out=scales), scheme, out=scales)
        if factor < 1 and place % _BLOCK == 0 and judge.hopeless(scales, unit, least):
            break
        # What is not cut off is not cut off by larger scales either.
        clamp = factor < 1 or (clamp and judge.needs_clamp(scales))
        judge.errors(scales, errors, clamp=clamp)
        # Squares of the weights themselves would overflow, or vanish, at the ends of the float32 range.
        errors *= torch.div(scales, unit, out=squares).square_()
        torch.where(errors < least, scales, best, out=best)
        torch.minimum(errors, least, out=least)
    return best, least
