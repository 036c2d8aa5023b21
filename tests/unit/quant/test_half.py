"""Weights that float16 cannot hold are refused by name."""

from __future__ import annotations

import pytest
import torch

from helium_edge.errors import CheckpointError
from helium_edge.quant import QuantizedWeight
from helium_edge.quant.half import check_half
from helium_edge.recipe import Scheme, parse_scheme


def quantized(scale: float) -> QuantizedWeight:
    scheme = Scheme.model_validate(parse_scheme("int8"))
    codes = torch.randint(-127, 128, (600, 1024), dtype=torch.int8)
    return QuantizedWeight(scheme, codes, torch.full((600, 1), scale))


def test_a_weight_beyond_float16_is_refused() -> None:
    exact = torch.ones(4, 4)
    exact[2, 1] = -70_000
    with pytest.raises(CheckpointError, match=r"tensor a\.weight: the largest value is 70000"):
        check_half("a.weight", exact)
    with pytest.raises(CheckpointError, match=r"tensor a\.weight: the largest value is .* ends at 65504"):
        check_half("a.weight", quantized(600.0))


@pytest.mark.parametrize("magnitude", [1e-6, 1e-12, 1e-30])
def test_a_weight_below_float16_is_refused(magnitude: float) -> None:
    for weight in (torch.randn(600, 1024) * magnitude, quantized(magnitude / 100)):
        with pytest.raises(CheckpointError, match=r"tensor a\.weight: .* too small"):
            check_half("a.weight", weight)


@pytest.mark.parametrize("magnitude", [0.0, 2e-4, 1.0, 8_000.0])
def test_other_weights_pass(magnitude: float) -> None:
    exact = torch.randn(600, 1024) * magnitude
    exact[:2] = 0  # rows of zeros, and small values beside large ones, are no reason
    exact[2] *= 1e-6
    check_half("a.weight", exact)
    check_half("a.weight", torch.randn(600) * magnitude)
    if magnitude >= 1:
        check_half("a.weight", quantized(magnitude / 127))
