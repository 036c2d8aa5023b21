from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given

from helium_edge.quant import QuantizedWeight, dequantize
from helium_edge.quant.affine import (
    CHUNK_ELEMENTS,
    code_range,
    relative_error,
    round_scales,
    row_chunks,
    storage_bytes,
)
from helium_edge.quant.methods import METHODS
from helium_edge.recipe import Scheme
from tests.unit.quant import plain
from tests.unit.quant.strategies import INT4, INT4_ASYMMETRIC, INT8, SCHEMES, schemes, unhurried, weights

G32, A32 = INT4[0], INT4_ASYMMETRIC[0]

FLOAT32_SLACK = 1e-4
"""A quotient of 127 is a float32 with an error of 127 * 2^-24, in units of half a step and with room."""


def grouped(values: torch.Tensor, quantized: QuantizedWeight) -> torch.Tensor:
    return values.double().view(*quantized.scales.shape, -1)


@pytest.mark.parametrize("method", sorted(METHODS))
@unhurried(60)
@given(weight=weights(), scheme=schemes)
def test_codes_are_nearest_and_scales_are_portable(method: str, weight: torch.Tensor, scheme: Scheme) -> None:
    quantized = METHODS[method](weight, scheme)
    low, high = code_range(scheme)
    assert int(quantized.codes.min()) >= low
    assert int(quantized.codes.max()) <= high
    scales = quantized.scales
    assert bool((scales >= 2.0**-126).all())
    assert bool(torch.isfinite(scales).all())
    if scheme.bits == 4:
        assert torch.equal(scales, scales.bfloat16().float())
    real = dequantize(quantized)
    assert bool(torch.isfinite(real).all())
    # Inside the range that the codes of a group span, nothing errs by more than half a step.
    steps = scales.double().unsqueeze(-1)
    zeros = 0 if quantized.zero_points is None else quantized.zero_points.double().unsqueeze(-1)
    exact, back = grouped(weight, quantized), grouped(real, quantized)
    inside = (exact >= (low - zeros - 0.5) * steps) & (exact <= (high - zeros + 0.5) * steps)
    limit = (steps / 2 * (1 + FLOAT32_SLACK)).expand_as(exact)
    assert bool(((exact - back).abs() <= limit)[inside].all())
    # Outside, the code is the outermost one.
    codes = quantized.codes.view_as(exact)
    assert bool((codes[~inside] == torch.where(exact > 0, high, low)[~inside]).all())


@unhurried(40)
@given(weight=weights(("normal", "outlier", "constant", "positive", "zero")), scheme=schemes)
def test_absmax_leaves_nothing_far_outside(weight: torch.Tensor, scheme: Scheme) -> None:
    quantized = METHODS["rtn"](weight, scheme)
    error = (grouped(weight, quantized) - grouped(dequantize(quantized), quantized)).abs()
    # Rounding a scale to bfloat16 moves the end of the range by 2^-9 of it.
    slack = 1 + 16 * 2.0**-8 if scheme.bits == 4 else 1 + FLOAT32_SLACK
    assert bool((error <= quantized.scales.double().unsqueeze(-1) / 2 * slack).all())


@unhurried(30)
@given(weight=weights())
def test_absmax_equals_plain_python(weight: torch.Tensor) -> None:
    rows = weight.float().tolist()
    symmetric, eight = METHODS["rtn"](weight, G32), METHODS["rtn"](weight, INT8)
    for n, row in enumerate(rows):
        scale, codes = plain.int8_row(row)
        assert (float(eight.scales[n]), eight.codes[n].tolist()) == (scale, codes)
        for g in range(len(row) // 32):
            values = row[32 * g : 32 * g + 32]
            if max(map(abs, values)) > 1e36:
                continue  # scales stop short of overflow there, which plain Python does not know
            assert (float(symmetric.scales[n, g]), symmetric.codes[n, 32 * g : 32 * g + 32].tolist()) == (
                plain.int4_group(values)
            )


@unhurried(30)
@given(weight=weights(("normal", "outlier", "constant", "positive", "tiny", "zero")))
def test_asymmetric_equals_plain_python(weight: torch.Tensor) -> None:
    quantized = METHODS["rtn"](weight, A32)
    assert quantized.zero_points is not None
    for n, row in enumerate(weight.float().tolist()):
        for g in range(len(row) // 32):
            scale, zero, codes = plain.int4_asymmetric_group(row[32 * g : 32 * g + 32])
            assert float(quantized.scales[n, g]) == scale
            assert int(quantized.zero_points[n, g]) == zero
            assert quantized.codes[n, 32 * g : 32 * g + 32].tolist() == codes


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_rounded_scales_neither_vanish_nor_overflow(scheme: Scheme) -> None:
    low, high = code_range(scheme)
    asked = torch.tensor([0.0, 1e-45, 2.0**-126, 0.3, 1e37, 3.4e38, float("inf")])
    scales = round_scales(asked, scheme)
    assert bool((scales >= 2.0**-126).all())
    assert bool(torch.isfinite(scales * max(-low, high)).all())
    if scheme.bits == 8:
        assert float(scales[3]) == float(asked[3])
    else:
        assert float(scales[3]) == plain.bfloat16(0.3)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_zeros_have_zero_codes_and_positive_scales(method: str, scheme: Scheme) -> None:
    quantized = METHODS[method](torch.zeros(3, 256), scheme)
    assert int(quantized.codes.count_nonzero()) == 0
    assert float(quantized.scales.min()) >= 2.0**-126
    assert torch.equal(dequantize(quantized), torch.zeros(3, 256))
    assert relative_error(torch.zeros(3, 256), quantized) == 0.0


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("size", [1e38, 3.4e38, 1e-38, 1e-40, 1e-45])
def test_extreme_weights_stay_finite_and_close(method: str, scheme: Scheme, size: float) -> None:
    weight = (torch.rand(4, 256) * 2 - 1) * size
    weight[0, 0], weight[1, 1] = size, -size
    quantized = METHODS[method](weight, scheme)
    assert bool(torch.isfinite(dequantize(quantized)).all())
    error = relative_error(weight, quantized)
    # Scales stop where a code times a scale would overflow, and the smallest normal scale is too coarse for
    # subnormal weights, which round to zero or to one step.
    limit = 1.5 if size < 1e-37 else 0.8 if size == 3.4e38 else 0.15
    assert error < limit


@unhurried(20)
@given(weight=weights(), scheme=schemes)
def test_dequantize_is_scale_times_code_minus_zero_point(weight: torch.Tensor, scheme: Scheme) -> None:
    quantized = METHODS["rtn"](weight, scheme)
    rows, columns = quantized.shape
    real = dequantize(quantized)
    size = columns // quantized.scales.shape[1]
    for n, k in ((0, 0), (rows - 1, columns - 1), (rows // 2, columns // 2 + 3)):
        zero = 0 if quantized.zero_points is None else int(quantized.zero_points[n, k // size])
        expected = float(quantized.scales[n, k // size]) * (int(quantized.codes[n, k]) - zero)
        assert float(real[n, k]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("scheme", [G32, A32, INT8], ids=str)
def test_result_depends_on_neither_chunks_nor_threads(
    method: str, scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = (torch.randn(40, 1152) * 0.3).bfloat16()

    def run(threads: int, elements: int) -> QuantizedWeight:
        monkeypatch.setattr("helium_edge.quant.affine.CHUNK_ELEMENTS", elements)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return METHODS[method](weight, scheme)
        finally:
            torch.set_num_threads(before)

    first = run(2, CHUNK_ELEMENTS)
    for threads, elements in ((1, CHUNK_ELEMENTS), (3, CHUNK_ELEMENTS), (2, 1), (2, 7 * 1152)):
        other = run(threads, elements)
        assert torch.equal(first.codes, other.codes)
        assert torch.equal(first.scales, other.scales)


@pytest.mark.parametrize("factor", [2.0**-110, 2.0**-60, 2.0**60, 2.0**110])
def test_the_measured_error_holds_at_the_ends_of_float32(factor: float) -> None:
    weight = torch.randn(40, 1152)
    _, error = METHODS["rtn"].measure(weight, G32)
    quantized, scaled = METHODS["rtn"].measure(weight * factor, G32)
    assert scaled == pytest.approx(error, rel=1e-5)
    assert scaled == pytest.approx(relative_error(weight * factor, quantized), rel=1e-5)


def test_work_outside_inference_mode_follows_work_inside() -> None:
    weight = torch.randn(4, 64)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            inside = METHODS["mse"](weight, G32).codes
        return inside, METHODS["mse"](weight, G32).codes

    with ThreadPoolExecutor(1) as fresh:  # a thread that has no buffers yet
        inside, outside = fresh.submit(both).result()
    assert torch.equal(inside, outside)


def test_row_chunks_cover_every_row_once() -> None:
    rows = [row for chunk in row_chunks(1000, 7040) for row in range(chunk.start, chunk.stop)]
    assert rows == list(range(1000))
    assert [chunk.stop - chunk.start for chunk in row_chunks(3, CHUNK_ELEMENTS * 2)] == [1, 1, 1]


def test_relative_error_is_rms_over_rms() -> None:
    weight = torch.randn(7, 96)
    quantized = METHODS["rtn"](weight, G32)
    difference = (dequantize(quantized) - weight).double()
    expected = float((difference.square().mean() / weight.double().square().mean()).sqrt())
    assert relative_error(weight, quantized) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (None, 8 * 64 * 4),
        (G32, 8 * 32 + 8 * 2 * 4),
        (A32, 8 * 32 + 8 * 2 * 4 + 8 * 1),
        (INT8, 8 * 64 + 8 * 4),
    ],
    ids=str,
)
def test_storage_bytes(scheme: Scheme | None, expected: int) -> None:
    assert storage_bytes(scheme, (8, 64)) == expected


def test_tensors_that_do_not_fit_are_refused() -> None:
    codes, scales, zeros = (
        torch.zeros(2, 64, dtype=torch.int8),
        torch.ones(2, 2),
        torch.zeros(2, 2, dtype=torch.int8),
    )
    assert QuantizedWeight(G32, codes, scales).shape == (2, 64)
    assert QuantizedWeight(A32, codes, scales, zeros).nbytes == storage_bytes(A32, (2, 64))
    with pytest.raises(ValueError, match="scales of a 2x64"):
        QuantizedWeight(G32, codes, scales.t()[:1])
    with pytest.raises(ValueError, match="zero points"):
        QuantizedWeight(G32, codes, scales, zeros)
    with pytest.raises(ValueError, match="zero points"):
        QuantizedWeight(A32, codes, scales)
    with pytest.raises(ValueError, match="zero points"):
        QuantizedWeight(A32, codes, scales, zeros[:1])
    with pytest.raises(ValueError, match="int8"):
        QuantizedWeight(G32, codes.int(), scales)
    with pytest.raises(ValueError, match="do not divide 48"):
        QuantizedWeight(G32, codes[:, :48], scales)
