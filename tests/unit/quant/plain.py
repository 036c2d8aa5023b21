"""Quantization in plain Python, one weight at a time: what the tests compare the vectorised code with.

Written from the definitions, with no import from the package.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

SMALLEST = 2.0**-126


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def bfloat16(value: float) -> float:
    """Nearest bfloat16, ties to even."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    bits += 0x7FFF + ((bits >> 16) & 1)
    return float(struct.unpack("<f", struct.pack("<I", bits & 0xFFFF0000))[0])


def nearest(value: float, scale: float) -> int:
    """Code of one weight: the quotient as a float32, then the nearest whole number, ties to even."""
    return round(float32(value / scale))


def int4_group(values: Sequence[float]) -> tuple[float, list[int]]:
    """Scale and codes of one symmetric int4 group, absmax."""
    scale = max(bfloat16(float32(max(abs(v) for v in values) / 7.5)), SMALLEST)
    return scale, [max(-8, min(7, nearest(v, scale))) for v in values]


def int4_asymmetric_group(values: Sequence[float]) -> tuple[float, int, list[int]]:
    """Scale, zero point and codes of one asymmetric int4 group, min-max."""
    low, high = min(0.0, *values), max(0.0, *values)
    scale = max(bfloat16(float32(float32(high - low) / 15)), SMALLEST)
    zero = max(0, min(15, nearest(-low, scale)))
    return scale, zero, [max(0, min(15, nearest(v, scale) + zero)) for v in values]


def int8_row(values: Sequence[float]) -> tuple[float, list[int]]:
    """Scale and codes of one int8 channel, absmax."""
    scale = max(float32(max(abs(v) for v in values) / 127.5), SMALLEST)
    return scale, [max(-127, min(127, nearest(v, scale))) for v in values]


def squared_error(values: Sequence[float], scale: float, low: int, high: int, weights: Sequence[float]) -> float:
    codes = [max(low, min(high, nearest(v, scale))) for v in values]
    return math.fsum(w * (v - scale * q) ** 2 for v, q, w in zip(values, codes, weights, strict=True))


def best_int4_scale(values: Sequence[float], weights: Sequence[float]) -> float:
    """Best of the absmax scale and 1.2, 1.175, ... 0.5 times it, then one least-squares step if that is better."""
    base = max(bfloat16(float32(max(abs(v) for v in values) / 7.5)), SMALLEST)

    def error(scale: float) -> float:
        return squared_error(values, scale, -8, 7, weights)

    best = min([base, *(bfloat16(float32(base * (48 - i) / 40)) for i in range(29))], key=error)
    codes = [max(-8, min(7, nearest(v, best))) for v in values]
    total = math.fsum(w * q * q for q, w in zip(codes, weights, strict=True))
    if total == 0:
        return best
    fitted = bfloat16(math.fsum(w * v * q for v, q, w in zip(values, codes, weights, strict=True)) / total)
    return min(best, fitted, key=error)


def golden_weight() -> list[list[float]]:
    """4 x 64, every value exact in bfloat16; the last group is all zeros."""
    rows = [[((n * 64 + k) * 37 % 129 - 64) / 64 * 2.0 ** (n - 2) + 0.0 for k in range(64)] for n in range(4)]
    rows[3][32:] = [0.0] * 32
    return rows


def nibbles(values: Sequence[int]) -> str:
    """Hex of values 0..15 packed two a byte, the first one low."""
    pairs = zip(values[0::2], values[1::2], strict=True)
    return bytes(low + 16 * high for low, high in pairs).hex()
