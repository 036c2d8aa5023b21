"""Quantization methods that need nothing but the weight. A new one is one class or function and one line here.

`rtn` rounds to nearest with absmax scales; `mse` searches the scale of least squared error first. The method that
needs a text beside the weights is `calibrated` (quant/calibrated/), which goes through the model in order.
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

ChooseScales = Callable[[torch.Tensor, Scheme], "tuple[torch.Tensor, torch.Tensor | None]"]
"""(groups (N, G, g) float32, scheme) -> scales and zero points, each (N, G)."""


class QuantMethod(Protocol):
    """Turns one matrix into codes and scales.

    Attributes:
        searches: Whether its scales cost more to find than to read back.
    """

    searches: bool

    def __call__(self, weight: torch.Tensor, scheme: Scheme) -> QuantizedWeight:
        """Quantize.

        Args:
            weight: (N, K) bfloat16, float16 or float32, finite. Never copied whole to float32.
            scheme: The numeric format; its group size divides K.

        Returns:
            The same result for the same input, whatever the number of threads.
        """
        ...

    def measure(self, weight: torch.Tensor, scheme: Scheme) -> tuple[QuantizedWeight, float]:
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
    def __call__(self, weight: torch.Tensor, scheme: Scheme) -> QuantizedWeight:
        return self.measure(weight, scheme)[0]

    @override
    def measure(self, weight: torch.Tensor, scheme: Scheme) -> tuple[QuantizedWeight, float]:
        return _round_rows(weight, scheme, lambda _, block: self._choose(block, scheme))


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


METHODS: Mapping[str, QuantMethod] = MappingProxyType(
    {
        "rtn": RoundToNearest(absmax_scales, searches=False),
        "mse": RoundToNearest(search_scales, searches=True),
    }
)
"""Methods by the name that a recipe gives."""

CALIBRATED = "calibrated"
"""Name of the method that is no function of a single weight: see `calibrated.CalibratedStore`."""

METHOD_NAMES = (*METHODS, CALIBRATED)
"""What a recipe may give."""


def check_method(name: str) -> None:
    """Refuse a name that is no method.

    Raises:
        RecipeError: No method of that name.
    """
    if name not in METHOD_NAMES:
        raise RecipeError(f"unknown quantization method {name!r}", hint=did_you_mean(name, METHOD_NAMES))


def find_method(name: str) -> QuantMethod:
    """Look up a method that needs nothing but the weight.

    Raises:
        RecipeError: No method of that name.
        ValueError: It is `calibrated`.
    """
    check_method(name)
    if name == CALIBRATED:
        raise ValueError("calibrated is no function of a single weight")
    return METHODS[name]
