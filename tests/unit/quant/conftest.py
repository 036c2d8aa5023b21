"""Fixtures of the store's tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.model import weights as model_weights
from helium_edge.quant import METHODS, QuantizedWeight
from helium_edge.quant import store as store_module
from helium_edge.recipe import Scheme


@pytest.fixture
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(str(tiny_checkpoint))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each weight has been read."""
    counts: Counter[str] = Counter()

    def read(checkpoint: Checkpoint, name: str, *, finite: bool = True) -> torch.Tensor:
        counts[name] += 1
        return model_weights.read_weight(checkpoint, name, finite=finite)

    monkeypatch.setattr(store_module, "read_weight", read)
    return counts


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Shapes and schemes of what has been quantized, in order."""
    log: list[str] = []

    class Logged:
        searches = True

        def measure(self, weight: torch.Tensor, scheme: Scheme) -> tuple[QuantizedWeight, float]:
            log.append(f"{tuple(weight.shape)} {scheme}")
            return METHODS["mse"].measure(weight, scheme)

    monkeypatch.setattr(store_module, "find_method", lambda name: Logged())
    return log
