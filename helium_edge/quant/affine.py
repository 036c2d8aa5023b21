"""Affine maths: codes, scales and zero points, and the way back. real = scale * (code - zero_point).

Every routine works on groups of weights along K that share one scale; a per-channel scheme has one group per row.
Shape legend: N output channels (rows), K input channels (columns), G groups in a row, g weights in a group.

Scales are finite, positive and normal float32, since XNNPACK refuses anything else, and those of 4-bit schemes are
representable in bfloat16, which is how XNNPACK stores them: rounded before codes are chosen, they are the same
numbers on every runtime.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from helium_edge.quant.scratch import scratch
from helium_edge.recipe import Scheme

SMALLEST_SCALE = 2.0**-126
"""Smallest normal number, the same in float32 and bfloat16."""

_SAFE_SCALE = 2.0**40
"""Squares of weights with scales between this and its inverse stay within the range of float32, summed as well."""

_LARGEST_BF16 = (2.0 - 2.0**-7) * 2.0**127

CHUNK_ELEMENTS = 1 << 19
"""Weights worked on at a time by a thread: 2 MiB of float32. In smaller chunks, threads wait for each other."""


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """One quantized matrix, as every target and the torch decoder read it.

    Args:
        scheme: The numeric format.
        codes: (N, K) int8: symmetric int4 in [-8, 7], asymmetric int4 in [0, 15], int8 in [-127, 127].
        scales: (N, G) float32, positive; G is K // group_size, or 1 per channel.
        zero_points: (N, G) int8 in [0, 15], or None when the scheme is symmetric.

    Raises:
        ValueError: The tensors do not fit the scheme or each other.
    """

    scheme: Scheme
    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None = None

    def __post_init__(self) -> None:
        rows, columns = self.codes.shape
        expected = (rows, group_count(self.scheme, columns))
        if self.codes.dtype != torch.int8 or self.scales.dtype != torch.float32:
            raise ValueError(f"codes are int8 and scales float32; found {self.codes.dtype}, {self.scales.dtype}")
        if tuple(self.scales.shape) != expected:
            raise ValueError(
                f"{self.scheme} scales of a {rows}x{columns} weight are {expected}, found {self.scales.shape}"
            )
        if (self.zero_points is None) != self.scheme.symmetric:
            raise ValueError(f"{self.scheme}: zero points belong to asymmetric schemes, and to those always")
        if self.zero_points is not None and (
            tuple(self.zero_points.shape) != expected or self.zero_points.dtype != torch.int8
        ):
            raise ValueError(f"{self.scheme} zero points are int8 {expected}, found {self.zero_points.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the weight as stored; see `storage_bytes`."""
        return storage_bytes(self.scheme, self.shape)


def code_range(scheme: Scheme) -> tuple[int, int]:
    """Smallest and largest code. int8 leaves out -128, so that a code and its negative both exist."""
    if scheme.bits == 8:
        return -127, 127
    return (-8, 7) if scheme.symmetric else (0, 15)


def group_count(scheme: Scheme, columns: int) -> int:
    """G, the number of groups in a row of K columns.

    Raises:
        ValueError: The group size does not divide K; plans refuse this earlier, by name of the tensor.
    """
    if scheme.group_size is None:
        return 1
    if columns % scheme.group_size:
        raise ValueError(f"{scheme}: groups of {scheme.group_size} do not divide {columns} columns")
    return columns // scheme.group_size


def storage_bytes(scheme: Scheme | None, shape: tuple[int, int]) -> int:
    """Bytes of packed codes, float32 scales and packed zero points; of float32 weights when `scheme` is None."""
    rows, columns = shape
    if scheme is None:
        return rows * columns * 4
    groups = group_count(scheme, columns)
    codes = rows * (columns * scheme.bits // 8)
    return codes + rows * groups * 4 + (0 if scheme.symmetric else rows * -(-groups // 2))


def row_chunks(rows: int, columns: int) -> Iterator[slice]:
    """Slices over rows, about `CHUNK_ELEMENTS` weights each."""
    step = max(1, CHUNK_ELEMENTS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def round_scales(scales: torch.Tensor, scheme: Scheme, out: torch.Tensor | None = None) -> torch.Tensor:
    """Round to the nearest scale that every runtime can hold, and so that no code dequantizes to infinity.

    Args:
        scales: Non-negative float32, possibly infinite.
        scheme: Tells whether scales are bfloat16 (4-bit) or float32 (int8).
        out: Where the result goes; may be `scales`.

    Returns:
        Float32 of the same shape; zero becomes the smallest normal number.
    """
    if scheme.bits == 8:
        return torch.clamp(scales, SMALLEST_SCALE, _LARGEST_BF16 / 128, out=out)
    largest = _LARGEST_BF16 / (8 if scheme.symmetric else 16)
    rounded = scales.to(torch.bfloat16)
    found = rounded.to(torch.float32) if out is None else out.copy_(rounded)
    return found.clamp_(SMALLEST_SCALE, largest)


def absmax_scales(groups: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scales (and zero points) that just cover the largest weight of each group.

    A symmetric scale is absmax / (largest code + 1/2): the outermost weights then round inwards by half a step,
    which is no more than any other weight may err, and the grid is finer than with absmax / largest code.

    Args:
        groups: (N, G, g) float32.
        scheme: The numeric format.

    Returns:
        Scales (N, G) float32; zero points (N, G) float32, or None when symmetric.
    """
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)  # aminmax takes five times as long
    if scheme.symmetric:
        absmax = torch.maximum(high, -low)
        return round_scales(absmax / (code_range(scheme)[1] + 0.5), scheme), None
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)  # zero is always a code
    scales = round_scales((high - low) / 15, scheme)  # may be infinite, and is clamped then
    return scales, (-low / scales).round_().clamp_(0, 15)


def round_to_codes(
    groups: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    scheme: Scheme,
    out: torch.Tensor,
) -> ErrorSums:
    """Round weights to the nearest code, ties to even, clamped to the code range; and measure what that costs.

    Args:
        groups: (N, G, g) float32, contiguous.
        scales: (N, G) float32, positive.
        zero_points: (N, G) float32 whole numbers, or None.
        scheme: The numeric format.
        out: (N, G, g) int8, where the codes go.

    Returns:
        The sums of these rows.
    """
    ratios = torch.div(groups, scales.unsqueeze(-1), out=scratch("ratios", groups.shape))
    codes = torch.round(ratios, out=scratch("codes", groups.shape))
    if zero_points is not None:
        codes += zero_points.unsqueeze(-1)
    out.copy_(codes.clamp_(*code_range(scheme)))
    if zero_points is not None:
        codes -= zero_points.unsqueeze(-1)
    largest = float(scales.max())
    if not 1 / _SAFE_SCALE < largest < _SAFE_SCALE:  # NaN as well
        return error_sums(ratios, codes, scales)
    noise = codes.sub_(ratios).mul_(scales.unsqueeze(-1)).view(-1)
    return ErrorSums(float(torch.dot(noise, noise)), float(torch.dot(groups.view(-1), groups.view(-1))))


def dequantize(weight: QuantizedWeight) -> torch.Tensor:
    """Real values of a quantized weight, (N, K) float32, always finite."""
    out = torch.empty(weight.shape, dtype=torch.float32)
    for rows in row_chunks(*weight.shape):
        out[rows] = _dequantize_rows(weight, rows)
    return out


def _dequantize_rows(weight: QuantizedWeight, rows: slice) -> torch.Tensor:
    scales = weight.scales[rows].unsqueeze(-1)
    codes = weight.codes[rows].to(torch.float32).view(*weight.scales[rows].shape, -1)
    if weight.zero_points is not None:
        codes -= weight.zero_points[rows].unsqueeze(-1)
    return codes.mul_(scales).view(-1, weight.shape[1])


@dataclass(frozen=True)
class ErrorSums:
    """Sums over some rows of a weight: of the squared quantization error, and of the squared weight."""

    noise: float
    signal: float


def error_sums(ratios: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> ErrorSums:
    """How far codes are from weights.

    Works on weights in units of their scale: squares of huge and of subnormal weights stay within the range of
    float32 there, and their scales within that of float64.

    Args:
        ratios: (N, G, g) float32, weight / scale.
        codes: (N, G, g) float32, code - zero point; may be overwritten.
        scales: (N, G) float32.
    """
    squared = scales.to(torch.float64).square_()
    noise = codes.sub_(ratios).square_().sum(dim=-1).to(torch.float64)
    torch.mul(ratios, ratios, out=codes)
    signal = codes.sum(dim=-1).to(torch.float64)
    return ErrorSums(float(noise.mul_(squared).sum()), float(signal.mul_(squared).sum()))


def combine_errors(sums: Iterable[ErrorSums]) -> float:
    """rms(weight - dequantized) / rms(weight) from the sums of all rows.

    0.0 for a weight of zeros, NaN for one that is not finite.
    """
    noise = signal = 0.0
    for part in sums:
        noise += part.noise
        signal += part.signal
    if signal == 0.0:
        return 0.0
    return math.sqrt(noise / signal) if math.isfinite(signal) else math.nan


def relative_error(original: torch.Tensor, weight: QuantizedWeight) -> float:
    """rms(original - dequantized) / rms(original), 0.0 for a weight of zeros.

    Args:
        original: (N, K), any floating dtype, finite.
        weight: Its quantized form.
    """
    return combine_errors(_error_of_rows(original, weight, rows) for rows in row_chunks(*weight.shape))


def _error_of_rows(original: torch.Tensor, weight: QuantizedWeight, rows: slice) -> ErrorSums:
    scales = weight.scales[rows]
    groups = original[rows].to(torch.float32).reshape(*scales.shape, -1)
    codes = weight.codes[rows].to(torch.float32).view(*scales.shape, -1)
    if weight.zero_points is not None:
        codes -= weight.zero_points[rows].unsqueeze(-1)
    return error_sums(groups / scales.unsqueeze(-1), codes, scales)
