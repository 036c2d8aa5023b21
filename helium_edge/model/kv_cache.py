"""The int8 and the float16 KV cache: scales of the one, and what keys and values become in either.

In float16 they are rounded half to even. In int8 every channel (one dimension of one key-value head, of keys or of
values of one layer) has a static, symmetric scale: code = row / scale, rounded half to even and clamped to
[-128, 127]. Kernels multiply by the reciprocal, which decides ties.

Shapes: Hkv key-value heads, T tokens, S cache slots, D head_dim.

Source: onnxruntime GroupQueryAttention with k_quant_type PER_CHANNEL (measured: rounding, reciprocal and clamp).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from helium_edge.config import ModelConfig

Side = Literal["key", "value"]
SIDES: tuple[Side, Side] = ("key", "value")

LOWEST, HIGHEST = -128, 127
"""Codes of an int8 row."""

Array = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class KvScales:
    """Scales of all caches of a model.

    Attributes:
        keys: One a layer, (Hkv, D) float32, positive; of keys after RoPE.
        values: Likewise, of values.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def side(self, layer: int, side: Side) -> Tensor:
        """Scales of one cache buffer, (Hkv, D)."""
        return (self.keys if side == "key" else self.values)[layer]

    def buffers(self) -> Iterator[Tensor]:
        """Scales in the order of cache buffers, each (Hkv, 1, D): they multiply codes (Hkv, S, D)."""
        for key, value in zip(self.keys, self.values, strict=True):
            yield key[:, None]
            yield value[:, None]

    def tensors(self) -> dict[str, Tensor]:
        """By the names that files give them; see `scale_name`."""
        return {
            scale_name(layer, side): self.side(layer, side) for layer in range(len(self.keys)) for side in SIDES
        }


def scale_name(layer: int, side: Side) -> str:
    """Name of the scales of one cache buffer."""
    return f"layers.{layer}.{side}_scale"


def scales_from_tensors(tensors: dict[str, Tensor], config: ModelConfig) -> KvScales:
    """The inverse of `KvScales.tensors`.

    Raises:
        ValueError: A tensor is missing, surplus, of another shape or type, or not finite and positive.
    """
    shape = (config.num_key_value_heads, config.head_dim)
    names = [scale_name(layer, side) for layer in range(config.num_hidden_layers) for side in SIDES]
    odd = next(iter(sorted(set(names) ^ set(tensors))), None)
    if odd is not None:
        raise ValueError(f"tensor {odd} is {'missing' if odd in names else 'none of an int8 cache'}")
    for name in names:
        tensor = tensors[name]
        if tensor.dtype != torch.float32 or tuple(tensor.shape) != shape:
            raise ValueError(f"tensor {name} is {tensor.dtype} {tuple(tensor.shape)}, not float32 {shape}")
        if not bool((torch.isfinite(tensor) & (tensor > 0)).all()):
            raise ValueError(f"tensor {name} holds scales that are not finite and positive")
    found = [tensors[name] for name in names]
    return KvScales(tuple(found[::2]), tuple(found[1::2]))


def exact_codes(rows: Tensor, scale: Tensor) -> Tensor:
    """Rows in units of their scale, not rounded yet; `scale` is broadcastable to them."""
    return rows * scale.reciprocal()


def round_rows(rows: Tensor, scale: Tensor) -> Tensor:
    """Rows as attention reads them back from an int8 cache, float32."""
    return exact_codes(rows, scale).round().clamp(LOWEST, HIGHEST) * scale


def beyond_rounding(codes: Array, rows: Array, scale: Array) -> Array:
    """What codes of the cache differ from rows by, beyond what rounding to the nearest code explains.

    A code is right where it is within half a code of the row: one that float32 noise has tipped to the other
    side of a tie is off by that noise, and not by a whole code.

    Args:
        codes: What the cache holds.
        rows: What was to be stored, of the same shape.
        scale: Broadcastable to them.

    Returns:
        The difference in the units of `rows`, 0 for a code that is right.
    """
    exact = np.clip(rows.astype(np.float64) / scale, LOWEST, HIGHEST)
    gap = codes.astype(np.float64) - exact
    found: Array = np.sign(gap) * np.maximum(np.abs(gap) - 0.5, 0.0) * scale
    return found


def round_to_half(rows: Tensor) -> Tensor:
    """Rows as attention reads them back from a float16 cache, float32."""
    return rows.to(torch.float16).to(torch.float32)


def beyond_half_rounding(stored: Array, rows: Array) -> Array:
    """What a float16 cache differs from rows by, beyond what rounding to the nearest number explains.

    As `beyond_rounding`, in the steps of float16: those of the larger of both numbers, the wider ones where a
    power of two lies between them.

    Args:
        stored: What the cache holds.
        rows: What was to be stored, of the same shape.

    Returns:
        The difference, 0 for a number that is right; NaN or infinite where `stored` is.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        gap = stored.astype(np.float64) - rows
        largest = np.maximum(np.abs(stored), np.abs(rows)).astype(np.float16)
        step = np.spacing(largest).astype(np.float64)
        found: Array = np.sign(gap) * np.maximum(np.abs(gap) - step / 2, 0.0)
    return found
