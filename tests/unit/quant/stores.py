"""A quantization with every kind of rule, and how stores are compared: shared by the tests of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from helium_edge.recipe import Quantization, Rule, Scheme

INT8, G32 = Scheme(bits=8), Scheme(bits=4, group_size=32)
A32 = Scheme(bits=4, group_size=32, symmetric=False)
MIXED = Quantization(
    method="mse",
    rules=(
        Rule(match=r"lm_head\.weight", skip=True),
        Rule(match=r"model\.embed_tokens\.weight", scheme=INT8),
        Rule(match=r".*\.(q|k)_proj\.weight", scheme=A32),
        Rule(match=r".*down_proj\.weight", scheme=Scheme(bits=4, group_size=64), fallback=G32),
        Rule(match=r".*", scheme=G32),
    ),
)
SKIP = "lm_head.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"
UP = "model.layers.1.mlp.up_proj.weight"


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
        return
    assert found.scheme == expected.scheme
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.scales, expected.scales)
    assert (found.zero_points is None) == (expected.zero_points is None)
    if expected.zero_points is not None:
        assert torch.equal(found.zero_points, expected.zero_points)


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
