"""Faults of an exporter: code of a target exchanged while a bundle is made, so that what follows is consistent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from helium_edge.config import ModelConfig
from helium_edge.targets.xnnpack import decoder
from helium_edge.targets.xnnpack.graph import GraphBuilder


@contextmanager
def no_causal_mask() -> Iterator[None]:
    """XNNPACK: every new token sees all new tokens, those that come after it and the padding included."""

    def seen(config: ModelConfig, tokens: int) -> torch.Tensor:
        return torch.zeros(config.num_attention_heads // config.num_key_value_heads * tokens, tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "causal_mask", seen)
        yield


@contextmanager
def rows_rounded_down() -> Iterator[None]:
    """XNNPACK: new rows of an int8 cache are cut off to the code below, where the nearest one is right."""
    plain_start, plain_codes = decoder.Decoder.__init__, GraphBuilder.to_codes
    halves: dict[GraphBuilder, Callable[[], int]] = {}

    def start(self: decoder.Decoder, *args: Any, **options: Any) -> None:
        plain_start(self, *args, **options)
        halves[self.graph] = lambda: self.number(-0.5)

    def to_codes(self: GraphBuilder, x: int) -> int:
        return plain_codes(self, self.add(x, halves[self]()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder.Decoder, "__init__", start)
        patch.setattr(GraphBuilder, "to_codes", to_codes)
        yield


@contextmanager
def rows_below() -> Iterator[None]:
    """XNNPACK: new rows of a float16 cache are half a step too small before they are rounded."""
    plain_start, plain_half = decoder.Decoder.__init__, GraphBuilder.to_half
    factors: dict[GraphBuilder, Callable[[], int]] = {}

    def start(self: decoder.Decoder, *args: Any, **options: Any) -> None:
        plain_start(self, *args, **options)
        factors[self.graph] = lambda: self.number(1 - 2.0**-11)

    def to_half(self: GraphBuilder, x: int) -> int:
        return plain_half(self, self.multiply(x, factors[self]()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder.Decoder, "__init__", start)
        patch.setattr(GraphBuilder, "to_half", to_half)
        yield


EXPORT_FAULTS: dict[str, Callable[[], object]] = {
    "padding leaks": no_causal_mask,
    "rows rounded down": rows_rounded_down,
    "rows below": rows_below,
}
