"""Scale search: the scale of each group that minimises the squared error of its weights.

A grid of shrunk and stretched absmax scales, each rounded to what runtimes can hold before it is judged, then one
least-squares step: for fixed codes q the best scale is sum(w q) / sum(q q). Plain absmax is the first candidate
and ties keep it, so the result is never worse. The search ends early where no
smaller scale can be better.
"""

from __future__ import annotations

import torch

from helium_edge.quant.affine import absmax_scales, code_range, round_scales
from helium_edge.quant.parallel import spans
from helium_edge.quant.scratch import scratch
from helium_edge.recipe import GROUP_SIZES, Scheme

# Factors on the absmax scale. Measured on Gaussian and Student-t5 weights in groups of 32 to 128: the best factor
# lies between 0.69 and 1.25 for all but 1 % of int4 groups; int8 channels gain nothing below 0.7.
_INT4_FACTORS = [step / 40 for step in range(41, 49)], [step / 40 for step in range(39, 19, -1)]
_INT8_FACTORS: tuple[list[float], list[float]] = [], [step / 100 for step in range(99, 69, -1)]
"""Upwards from 1, and downwards: 1.025 to 1.2 and 0.975 to 0.5; 0.99 to 0.7."""

_ELEMENTS = 1 << 17
"""Weights that are judged at a time: of few groups several candidates together, since a call takes as long as the
work on thousands of weights."""

_LOOK = 4
"""Candidates after which it is looked at whether any that follows can be of use."""

_ROUNDING_MARGIN = 1e-3
"""Far more than float32 arithmetic may be off, and too little to matter: no result depends on it."""


class _Judge:
    """Measures candidate scales for M groups of weights, in buffers that stay in cache.

    Groups lie side by side, (g, M): what is done with each weight and the scale of its group then runs along M,
    and sums over a group add whole rows, in the same order whatever the processor and the chunk. A channel,
    of which a chunk has only a few, stays as it is, (M, K). C candidates come first.

    Args:
        groups: (M, g) float32, contiguous.
        code_range: Smallest and largest code.
        zero_points: (M,) or None.
        importance: (M, g), or (1, g) for all groups alike, or None.
    """

    def __init__(
        self,
        groups: torch.Tensor,
        code_range: tuple[int, int],
        zero_points: torch.Tensor | None,
        importance: torch.Tensor | None,
    ) -> None:
        beside = groups.shape[1] in GROUP_SIZES
        if beside:
            groups = scratch("beside", groups.shape[::-1]).copy_(groups.t())
            importance = None if importance is None else importance.t()
        self._groups = groups
        self._importance = importance
        self._axis = axis = 0 if beside else 1
        self._low, low = groups.min(dim=axis)
        self._high, high = groups.max(dim=axis)
        # What an error of the outermost weights costs.
        self._prices = [_take(importance, places, axis) for places in (low, high)]
        # Smallest and largest code minus zero point.
        self._range = code_range
        ends = [torch.tensor(float(end)) for end in code_range]
        self._first, self._last = ends if zero_points is None else [end - zero_points for end in ends]

    @property
    def at_once(self) -> int:
        """How many candidates to judge in one call."""
        return max(1, _ELEMENTS // self._groups.numel())

    def errors(self, scales: torch.Tensor, *, clamp: bool = True) -> torch.Tensor:
        """The squared error of each group, (C, M) as the scales, in squared units of its scale."""
        ratios, codes = self._round(scales, clamp=clamp)
        squares = _squared_difference(ratios, codes, out=codes)
        if self._importance is not None:
            squares.mul_(self._importance)
        return self._sum(squares)

    def least_squares(self, scales: torch.Tensor) -> torch.Tensor:
        """The scales, not yet rounded, that fit best the codes which `scales` (C, M) lead to."""
        ratios, codes = self._round(scales)
        products = ratios.mul_(codes)
        squares = codes.square_()
        if self._importance is not None:
            products.mul_(self._importance)
            squares.mul_(self._importance)
        total = self._sum(squares)
        return torch.where(total > 0, scales * (self._sum(products) / total), scales)

    def needs_clamp(self, scales: torch.Tensor) -> bool:
        """Whether any weight rounds to more than the last code."""
        # Half a step beyond the last code still rounds to it.
        inside = (self._high < scales * (self._last + 0.49)) & (self._low > scales * (self._first - 0.49))
        return not bool(inside.all())

    def hopeless(self, scales: torch.Tensor, unit: torch.Tensor, errors: torch.Tensor) -> bool:
        """Whether neither these scales nor smaller ones come below these errors, given in squares of `unit`.

        The outermost weight of each group, cut off at the largest code, would alone err by more.
        """
        below, above = scales * self._first - self._low, self._high - scales * self._last
        costs = [cut.clamp_(min=0.0).div_(unit).square_() for cut in (below, above)]
        for cost, price in zip(costs, self._prices, strict=True):
            if price is not None:
                cost.mul_(price)
        return bool((torch.maximum(*costs) > errors * (1 + _ROUNDING_MARGIN)).all())

    def _round(self, scales: torch.Tensor, *, clamp: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights in units of the scale, and their codes minus the zero point; both valid until the next call."""
        shape = (len(scales), *self._groups.shape)
        steps = torch.reciprocal(scales, out=scratch("steps", scales.shape))
        ratios = torch.mul(self._groups, self._spread(steps), out=scratch("ratios", shape))
        codes = torch.round(ratios, out=scratch("codes", shape))
        if clamp and self._first.dim():
            torch.clamp(codes, self._spread(self._first), self._spread(self._last), out=codes)
        elif clamp:
            codes.clamp_(*self._range)
        return ratios, codes

    def _spread(self, values: torch.Tensor) -> torch.Tensor:
        """Values of groups (..., M), to be combined with their weights."""
        return values.unsqueeze(self._axis - 2)

    def _sum(self, weights: torch.Tensor) -> torch.Tensor:
        """The sum over each group, (C, M)."""
        return torch.sum(weights, dim=self._axis - 2)


def _take(importance: torch.Tensor | None, places: torch.Tensor, axis: int) -> torch.Tensor | None:
    """The importance of one weight of each group, (M,)."""
    if importance is None:
        return None
    shape = list(importance.shape)
    shape[1 - axis] = len(places)
    return importance.expand(shape).gather(axis, places.unsqueeze(axis)).squeeze(axis)


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
        importance if importance is None or len(importance) == 1 else importance.repeat(len(groups), 1),
    )  # fmt: skip
    scales, errors = _search_grid(judge, unit, scheme)
    refined = round_scales(judge.least_squares(scales.unsqueeze(0)), scheme)
    found = judge.errors(refined).mul_((refined / unit).square_())
    return torch.where(found < errors, refined, scales).view_as(absmax), zero_points


def _search_grid(judge: _Judge, unit: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """The best of all factors on the absmax scale, and its error in squares of `unit`; of equals, the first."""
    best, least = unit, judge.errors(unit.unsqueeze(0))[0]
    larger, smaller = _INT8_FACTORS if scheme.bits == 8 else _INT4_FACTORS
    clamp = True
    for factors in (larger, smaller):
        since_look = _LOOK
        for piece in spans(len(factors), judge.at_once):
            candidates = torch.tensor(factors[piece]).unsqueeze(1)
            # Memory that is taken anew each time would be cleared page by page.
            scales = torch.mul(unit, candidates, out=scratch("scales", (len(candidates), len(unit))))
            round_scales(scales, scheme, out=scales)
            if factors is smaller and since_look >= _LOOK:
                # Cutting off costs all the more the smaller the scale: what is hopeless stays so.
                if judge.hopeless(scales[0], unit, least):
                    break
                since_look = 0
            since_look += len(candidates)
            # What is not cut off is not cut off by larger scales either.
            clamp = factors is smaller or (clamp and judge.needs_clamp(scales[0]))
            errors = judge.errors(scales, clamp=clamp)
            # Squares of the weights themselves would overflow, or vanish, at the ends of the float32 range.
            errors *= torch.div(scales, unit, out=scratch("squares", scales.shape)).square_()
            error, place = errors.min(dim=0)
            better = error < least
            best = torch.where(better, scales.gather(0, place.unsqueeze(0))[0], best)
            least = torch.where(better, error, least)
    return best, least
