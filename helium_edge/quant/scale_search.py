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
_INT4_FACTORS = tuple((48 - step) / 40 for step in range(29) if step != 8)  # 1.2, 1.175, ... 0.5 without 1.0
_INT8_FACTORS = tuple((100 - step) / 100 for step in range(1, 31))  # 0.99, 0.98, ... 0.7

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
        squares = codes.sub_(ratios).square_()
        if self._importance is not None:
            squares.mul_(self._importance)
        out.copy_(self._sum(squares))

    def least_squares(self, scales: torch.Tensor) -> torch.Tensor:
        """The scales (M,), not yet rounded, that fit best the codes which `scales` leads to."""
        ratios, codes = self._round(scales)
        products = ratios.mul_(codes)
        squares = codes.square_()
        if self._importance is not None:
            products.mul_(self._importance)
            squares.mul_(self._importance)
        total = self._sum(squares)
        return torch.where(total > 0, scales * (self._sum(products) / total), scales)

    def needs_clamp(self, scales: torch.Tensor) -> list[bool]:
        """Whether any weight rounds to more than the last code, for each row of scales (C, M)."""
        # Half a step beyond the last code still rounds to it.
        inside = (self._high < scales * (self._last + 0.49)) & (self._low > scales * (self._first - 0.49))
        return inside.all(dim=1).logical_not_().tolist()

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
        torch.div(self._groups, self._spread(scales), out=self._ratios)
        codes = torch.round(self._ratios, out=self._codes)
        if clamp and self._first.dim():
            torch.clamp(codes, self._spread(self._first), self._spread(self._last), out=codes)
        elif clamp:
            codes.clamp_(*self._range)
        return self._ratios, codes

    def _spread(self, values: torch.Tensor) -> torch.Tensor:
        """Values of groups (M,), to be combined with their weights."""
        return values if self._beside else values.unsqueeze(-1)

    def _sum(self, weights: torch.Tensor) -> torch.Tensor:
        """Sums over each group (M,), in halves; the argument is used up."""
        if not self._beside:
            return weights.sum(dim=1)
        half = len(weights) // 2
        while half:
            weights[:half] += weights[half : 2 * half]
            half //= 2
        return weights[0]


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
    factors = torch.tensor((1.0, *(_INT8_FACTORS if scheme.bits == 8 else _INT4_FACTORS)))
    candidates = round_scales(unit * factors.unsqueeze(-1), scheme)
    # Squares of the weights themselves would overflow, or vanish, at the ends of the float32 range.
    squared = (candidates / unit).square_()
    errors = torch.empty_like(candidates)
    larger = int((factors > 1).sum()) + 1
    clamp = judge.needs_clamp(candidates[:larger]) + [True] * (len(candidates) - larger)
    done = 0
    while done < len(candidates):
        # Cutting off costs all the more the smaller the scale: what is hopeless stays so.
        if factors[done] < 1 and judge.hopeless(candidates[done], unit, errors[:done].amin(dim=0)):
            break
        block = slice(done, min(done + _BLOCK, len(candidates)))
        for scales, out, needed in zip(candidates[block], errors[block], clamp[block], strict=True):
            judge.errors(scales, out, clamp=needed)
        errors[block] *= squared[block]
        done = block.stop
    least, index = errors[:done].min(dim=0)
    return candidates.gather(0, index.unsqueeze(0)).squeeze(0), least
