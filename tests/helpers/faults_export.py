"""Faults of an exporter: code of a target exchanged while a bundle is made, so that what follows is consistent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from helium_edge.config import ModelConfig
from helium_edge.targets.xnnpack import graph


@contextmanager
def no_causal_mask() -> Iterator[None]:
    """XNNPACK: every new token sees all new tokens, those that come after it and the padding included."""

    def seen(config: ModelConfig, tokens: int) -> torch.Tensor:
        return torch.zeros(config.num_attention_heads // config.num_key_value_heads * tokens, tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "causal_mask", seen)
        yield


@contextmanager
def rows_rounded_down() -> Iterator[None]:
    """XNNPACK: new rows of an int8 cache are cut off to the code below, where the nearest one is right."""
    from helium_edge.targets.xnnpack import operators

    def forward(self: operators.Int8Rows, rows: torch.Tensor) -> torch.Tensor:
        return operators._quantize(torch.floor(rows * self.inverse))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operators.Int8Rows, "forward", forward)
        yield


EXPORT_FAULTS: dict[str, Callable[[], object]] = {
    "padding leaks": no_causal_mask,
    "rows rounded down": rows_rounded_down,
}
