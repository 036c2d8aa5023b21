"""Quantization methods: how codes and scales are chosen. A new method is one class or function and one line here.

`rtn` rounds to nearest with absmax scales; `mse` searches the scale of least squared error first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import torch

from helium_edge.errors import RecipeError, did_you_mean
from helium_edge.quant.affine import QuantizedWeight, absmax_scales, group_count, round_to_codes, row_chunks
from helium_edge.quant.scale_search import search_scales
from helium_edge.recipe import Scheme

ChooseScales = Callable[[torch.Tensor, Scheme, "torch.Tensor | None"], "tuple[torch.Tensor, torch.Tensor | None]"]
"""(groups (N, G, g) float32, scheme, importance (G, g) or None) -> scales and zero points, each (N, G)."""


class QuantMethod(Protocol):
    """Turns one matrix into codes and scales."""

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


class RoundToNearest:
    """Rounds each weight to the nearest code of scales that are chosen group by group.

    Args:
        choose: How the scales of a block of groups are chosen.
    """

    def __init__(self, choose: ChooseScales) -> None:
        self._choose = choose

    def __call__(
        self, weight: torch.Tensor, scheme: Scheme, importance: torch.Tensor | None = None
    ) -> QuantizedWeight:
        """See `QuantMethod`."""
        rows, columns = weight.shape
        groups = group_count(scheme, columns)
        if importance is not None:
            importance = _check_importance(importance, columns).view(groups, -1)
        codes = torch.empty(rows, columns, dtype=torch.int8)
        scales = torch.empty(rows, groups, dtype=torch.float32)
        zero_points = None if scheme.symmetric else torch.empty(rows, groups, dtype=torch.int8)
        for chunk in row_chunks(rows, columns):
            block = weight[chunk].to(torch.float32).contiguous().view(-1, groups, columns // groups)
            chosen, zeros = self._choose(block, scheme, importance)
            codes[chunk] = round_to_codes(block, chosen, zeros, scheme).view(-1, columns)
            scales[chunk] = chosen
            if zero_points is not None and zeros is not None:
                zero_points[chunk] = zeros.to(torch.int8)
        return QuantizedWeight(scheme, codes, scales, zero_points)


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
    {"rtn": RoundToNearest(_absmax), "mse": RoundToNearest(search_scales)}
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
