"""Quantization methods: how codes and scales are chosen. A new method is one class or function and one line here.

`rtn` rounds to nearest with absmax scales; `mse` searches the scale of least squared error first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from typing_extensions import override

from helium_edge.errors import RecipeError, did_you_mean
from helium_edge.quant.affine import (
    ErrorSums,
    QuantizedWeight,
    absmax_scales,
    combine_errors,
    group_count,
    round_to_codes,
)
from helium_edge.quant.parallel import map_rows
from helium_edge.quant.scale_search import search_scales
from helium_edge.quant.scratch import scratch
from helium_edge.recipe import Scheme

ChooseScales = Callable[[torch.Tensor, Scheme, "torch.Tensor | None"], "tuple[torch.Tensor, torch.Tensor | None]"]
"""(groups (N, G, g) float32, scheme, importance (G, g) or None) -> scales and zero points, each (N, G)."""


class QuantMethod(Protocol):
    """Turns one matrix into codes and scales.

    Attributes:
        searches: Whether its scales cost more to find than to read back.
    """

    searches: bool

    def __call__(
        self, weight: torch.Tensor, scheme: Scheme, importance: torch.Tensor | None = None
    ) -> QuantizedWeight:
        """Quantize.

        Args:
            weight: (N, K) bfloat16, float16 or float32, finite. Never copied whole to float32.
            scheme: The numeric format; its group size divides K.
            importance: (K,) non-negative: how much an error in each column matters; None weighs all alike. A
                method may have no use for it.

        Returns:
            The same result for the same input, whatever the number of threads.
        """
        ...

    def measure(
        self, weight: torch.Tensor, scheme: Scheme, importance: torch.Tensor | None = None
    ) -> tuple[QuantizedWeight, float]:
        """Quantize, and say how far the result is from the weight: `affine.relative_error`, in the same pass.

        A weight that is not finite has an error that is not, and codes without meaning.
        """
        ...


class RoundToNearest(QuantMethod):
    """Rounds each weight to the nearest code of scales that are chosen group by group.

    Args:
        choose: How the scales of a block of groups are chosen.
        searches: See `QuantMethod`.
    """

    def __init__(self, choose: ChooseScales, *, searches: bool) -> None:
        self._choose = choose
        self.searches = searches

    @override
    def __call__(
        self, weight: torch.Tensor, scheme: Scheme, importance: torch.Tensor | None = None
    ) -> QuantizedWeight:
        return self.measure(weight, scheme, importance)[0]

    @override
    def measure(
        self, weight: torch.Tensor, scheme: Scheme, importance: torch.Tensor | None = None
    ) -> tuple[QuantizedWeight, float]:
        columns = weight.shape[1]
        if importance is not None:
            importance = _check_importance(importance, columns).view(group_count(scheme, columns), -1)
        return _round_rows(weight, scheme, lambda _, block: self._choose(block, scheme, importance))


def round_with(
    weight: torch.Tensor, scheme: Scheme, scales: torch.Tensor, zero_points: torch.Tensor | None
) -> QuantizedWeight:
    """Round to scales that are known: (N, G) float32, with zero points (N, G) int8 for asymmetric schemes."""

    def known(rows: slice, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return scales[rows], None if zero_points is None else zero_points[rows].to(torch.float32)

    return _round_rows(weight, scheme, known)[0]


def _round_rows(
    weight: torch.Tensor,
    scheme: Scheme,
    choose: Callable[[slice, torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]],
) -> tuple[QuantizedWeight, float]:
    """Touch each weight once: `choose` scales of a block of rows, round it to codes, measure the error."""
    rows, columns = weight.shape
    groups = group_count(scheme, columns)
    codes = torch.empty(rows, columns, dtype=torch.int8)
    scales = torch.empty(rows, groups, dtype=torch.float32)
    zero_points = None if scheme.symmetric else torch.empty(rows, groups, dtype=torch.int8)

    def work(chunk: slice) -> ErrorSums:
        part = weight[chunk]
        block = scratch("block", part.shape).copy_(part).view(-1, groups, columns // groups)
        chosen, zeros = choose(chunk, block)
        sums = round_to_codes(block, chosen, zeros, scheme, codes[chunk].view(block.shape))
        scales[chunk] = chosen
        if zero_points is not None and zeros is not None:
            zero_points[chunk] = zeros.to(torch.int8)
        return sums

    error = combine_errors(map_rows(work, rows, columns))
    return QuantizedWeight(scheme, codes, scales, zero_points), error


def _check_importance(importance: torch.Tensor, columns: int) -> torch.Tensor:
    values = importance.to(torch.float32)
    if tuple(values.shape) != (columns,) or not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise ValueError(f"importance must be {columns} finite, non-negative numbers; found {tuple(values.shape)}")
    return values / values.max().clamp(min=torch.finfo(torch.float32).tiny)


def _absmax(
    groups: torch.Tensor, scheme: Scheme, importance: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    del importance  # the largest weight decides, however little its column matters
    return absmax_scales(groups, scheme)


METHODS: Mapping[str, QuantMethod] = MappingProxyType(
    {
        "rtn": RoundToNearest(_absmax, searches=False),
        "mse": RoundToNearest(search_scales, searches=True),
    }
)
"""Method names that a recipe may give."""


def find_method(name: str) -> QuantMethod:
    """Look up a method.

    Raises:
        RecipeError: No method of that name.
    """
    if name not in METHODS:
        raise RecipeError(f"unknown quantization method {name!r}", hint=did_you_mean(name, METHODS))
    return METHODS[name]
