"""How much of an int8 KV cache saturates: static scales clip what is larger than the text that calibrated them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from helium_edge.model.kv_cache import KvScales
from helium_edge.quant.kv_calibration import Saturation, clipped
from helium_edge.runtime.runner import Logits


class SaturationMeter:
    """Counts values that are clipped, by channel.

    Args:
        scales: Of the cache.
    """

    def __init__(self, scales: KvScales) -> None:
        self._scales = list(scales.buffers())
        self._counts = [torch.zeros_like(scale[:, 0], dtype=torch.int64) for scale in self._scales]
        self._tokens = 0

    def add(self, rows: Sequence[Logits]) -> None:
        """Count new rows: key and value of each layer in turn, each (Hkv, T, D), not rounded."""
        self._tokens += rows[0].shape[1]
        for count, scale, values in zip(self._counts, self._scales, rows, strict=True):
            count += clipped(torch.from_numpy(values), scale)

    def result(self) -> Saturation:
        """What was found so far."""
        return Saturation.from_counts(self._counts, self._tokens)
