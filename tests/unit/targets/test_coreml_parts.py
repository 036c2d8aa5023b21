"""The float16 parts of the CoreML decoder, run by torch: no coremltools is needed."""

from __future__ import annotations

import pytest
import torch

from helium_edge.errors import CheckpointError
from helium_edge.quant import QuantizedWeight
from helium_edge.recipe import Scheme, parse_scheme
from helium_edge.targets.coreml.parts import HalfNorm
from helium_edge.targets.coreml.weights import HalfMatrix, QuantizedMatrix, check_half, stack_matrices

EPS = 1e-8


def norm_error(x: torch.Tensor, eps: float = EPS) -> float:
    """Largest error of a row, relative to the row's largest value."""
    gain = torch.linspace(0.5, 1.5, x.shape[1])
    x = x.to(torch.float16)
    exact = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + eps) * gain.half().double()
    found = HalfNorm(gain.to(torch.float16), eps)(x)
    assert found.dtype == torch.float16
    return float(((found - exact).abs().amax(-1) / exact.abs().amax(-1)).max())


@pytest.mark.parametrize("eps", [1e-8, 1e-6, 1e-5])
@pytest.mark.parametrize("magnitude", [3e-5, 1e-4, 1e-2, 1.0, 256.0, 2_000.0, 10_000.0])
def test_norm_at_every_magnitude(magnitude: float, eps: float) -> None:
    """Squares overflow above 256, and at 1e-4 the released eps of 1e-8 is half of the result."""
    x = torch.randn(16, 2560) * magnitude
    assert norm_error(x, eps) <= 4e-3


def test_norm_of_one_outlier() -> None:
    """The mean is smallest, 1 / C, where all but one value vanish."""
    x = torch.zeros(2, 7040)
    x[0, 3], x[1] = 60_000.0, 1e-3
    x[1, 5] = 300.0
    assert norm_error(x) <= 4e-3


def test_norm_of_zeros_is_zero() -> None:
    zeros = torch.zeros(2, 8, dtype=torch.float16)
    assert torch.equal(HalfNorm(torch.ones(8, dtype=torch.float16), EPS)(zeros), zeros)


def weight(scheme: str, rows: int = 4, columns: int = 64) -> QuantizedWeight:
    parsed = Scheme.model_validate(parse_scheme(scheme))
    low, high = (-127, 128) if parsed.bits == 8 else (-8, 8) if parsed.symmetric else (0, 16)
    groups = columns // (parsed.group_size or columns)
    return QuantizedWeight(
        parsed,
        torch.randint(low, high, (rows, columns), dtype=torch.int8),
        torch.rand(rows, groups).to(torch.bfloat16).float() + 0.0625,
        None if parsed.symmetric else torch.randint(0, 16, (rows, groups), dtype=torch.int8),
    )


@pytest.mark.parametrize("scheme", ["int8", "int4-g32", "int4-g32-asym"])
def test_stacking_keeps_integers_and_scales(scheme: str) -> None:
    parts = [weight(scheme, rows) for rows in (4, 2, 6)]
    stacked = stack_matrices([QuantizedMatrix(part) for part in parts])
    assert isinstance(stacked, QuantizedMatrix)
    shift = 8 if scheme.endswith("asym") else 0
    assert torch.equal(stacked.codes, torch.cat([part.codes for part in parts]) - shift)
    assert torch.equal(stacked.scales.float(), torch.cat([part.scales for part in parts]).half().float())
    if shift:
        assert torch.equal(stacked.zeros, torch.cat([part.zero_points for part in parts]) - shift)
    assert stacked.codes.min() >= stacked.limits[0]
    assert stacked.codes.max() <= stacked.limits[1]


def test_stacking_unquantized_matrices() -> None:
    parts = [torch.randn(rows, 8).half() for rows in (2, 3)]
    stacked = stack_matrices([HalfMatrix(part) for part in parts])
    assert torch.equal(stacked(), torch.cat(parts))


def test_a_weight_beyond_float16_is_refused() -> None:
    exact = torch.ones(4, 4)
    exact[2, 1] = -70_000
    with pytest.raises(CheckpointError, match=r"tensor a\.weight: the largest value is 70000"):
        check_half("a.weight", exact, exact.half())


@pytest.mark.parametrize("magnitude", [1e-6, 1e-12, 1e-30])
def test_a_weight_below_float16_is_refused(magnitude: float) -> None:
    exact = torch.randn(600, 1024) * magnitude
    with pytest.raises(CheckpointError, match=r"tensor a\.weight: .* too small"):
        check_half("a.weight", exact, exact.half())


@pytest.mark.parametrize("magnitude", [0.0, 2e-4, 1.0, 8_000.0])
def test_other_weights_pass(magnitude: float) -> None:
    exact = torch.randn(600, 1024) * magnitude
    exact[:2] = 0  # rows of zeros, and small values beside large ones, are no reason
    exact[2] *= 1e-6
    assert torch.equal(check_half("a.weight", exact, exact.half()), exact.half())
