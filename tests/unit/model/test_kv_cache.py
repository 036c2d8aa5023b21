"""The int8 and the float16 KV cache: rounding of rows, what rounding explains, and scales that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helium_edge.config import ModelConfig
from helium_edge.model.kv_cache import (
    KvScales,
    beyond_half_rounding,
    beyond_rounding,
    exact_codes,
    round_rows,
    round_to_half,
    scales_from_tensors,
)
from tests.helpers.checkpoints import make_checkpoint


def test_rows_are_rounded_half_to_even_and_clamped() -> None:
    scale = torch.tensor([[[0.5]]])
    rows = torch.tensor([[[0.25], [0.75], [-0.25], [63.4], [-64.0], [1000.0], [-1000.0]]])
    assert round_rows(rows, scale).flatten().tolist() == [0.0, 1.0, 0.0, 63.5, -64.0, 63.5, -64.0]


def test_ties_are_decided_by_the_reciprocal() -> None:
    """As the kernel decides them: a division would round this value to the other side."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(4096, generator=generator) * 0.04 + 0.01
    rows = (torch.arange(4096) % 100 + 0.5) * scale
    multiplied, divided = exact_codes(rows, scale).round(), (rows / scale).round()
    assert torch.equal(multiplied, (rows * (1.0 / scale)).round())
    assert not torch.equal(multiplied, divided)


def test_a_right_code_is_explained_and_a_wrong_one_is_not() -> None:
    rows = np.random.default_rng(0).normal(size=(2, 64, 8)).astype(np.float32)
    scale = np.full((2, 1, 8), 0.01, np.float32)
    codes = np.clip(np.rint(rows / scale), -128, 127).astype(np.int8)
    assert not beyond_rounding(codes, rows, scale).any()
    tipped = codes.copy()
    tipped[0, 0, 0] += 1
    found = beyond_rounding(tipped, rows, scale)
    assert 0 < abs(found[0, 0, 0]) <= 0.01
    assert np.count_nonzero(found) == 1
    # Truncation instead of rounding is off by up to half a code.
    assert np.abs(beyond_rounding(np.trunc(rows / scale), rows, scale)).max() > 0.004


def test_a_clipped_row_is_right_at_the_last_code() -> None:
    scale = np.full((1, 1, 1), 0.01, np.float32)
    rows = np.array([[[5.0], [-5.0]]], np.float32)
    assert not beyond_rounding(np.array([[[127], [-128]]], np.int8), rows, scale).any()
    assert beyond_rounding(np.array([[[126], [-126]]], np.int8), rows, scale).any()


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    return ModelConfig.from_file(make_checkpoint(tmp_path / "c", num_hidden_layers=2) / "config.json")


@given(st.floats(-60_000, 60_000, width=32), st.integers(-1, 1))
def test_only_the_nearest_half_is_right(number: float, steps: int) -> None:
    """In all of float16's range, its subnormal numbers included."""
    row = np.array([number], np.float32)
    nearest = row.astype(np.float16)
    stored = nearest if steps == 0 else np.nextafter(nearest, np.float16(steps * np.inf))
    off = float(beyond_half_rounding(stored, row)[0])
    gap = float(stored[0]) - number
    if steps == 0:
        assert off == 0
    else:
        # The next number is right as well where the row lies in the middle, and at the smaller side of a power of
        # two, where its step is the wider one; it is off by no more than its distance.
        step = float(np.spacing(np.maximum(np.abs(stored), np.abs(nearest)))[0])
        assert abs(off) == pytest.approx(max(0.0, abs(gap) - step / 2))


def test_what_is_not_finite_is_no_rounding() -> None:
    rows = np.array([1.0, 70_000.0, 3.0], np.float32)
    with np.errstate(over="ignore"):
        found = beyond_half_rounding(np.array([np.nan, np.inf, 3.0], np.float16), rows)
    assert not np.isfinite(found[:2]).any()
    assert found[2] == 0


def test_halves_are_rounded_to_even() -> None:
    rows = torch.tensor([1 + 2**-11, 1 + 3 * 2**-11, -(1 + 2**-11), 65_504.0, 1e-8])
    assert round_to_half(rows).tolist() == [1.0, 1 + 2**-9, -1.0, 65_504.0, 0.0]


def scales_of(config: ModelConfig) -> KvScales:
    shape = (config.num_key_value_heads, config.head_dim)
    return KvScales(
        tuple(torch.full(shape, 0.1 + i) for i in range(2)), tuple(torch.ones(shape) for _ in range(2))
    )


def test_scales_survive_their_file_names(config: ModelConfig) -> None:
    scales = scales_of(config)
    again = scales_from_tensors(scales.tensors(), config)
    assert [s.tolist() for s in again.buffers()] == [s.tolist() for s in scales.buffers()]
    assert len(list(scales.buffers())) == 4


BAD: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda t: t.pop("layers.1.value_scale"), "layers.1.value_scale is missing"),
    "surplus": (lambda t: t.update({"layers.2.key_scale": t["layers.0.key_scale"]}), "layers.2.key_scale is none"),
    "shape": (lambda t: t.update({"layers.0.key_scale": torch.ones(3)}), r"layers.0.key_scale is .*\(3,\)"),
    "type": (lambda t: t.update({"layers.0.key_scale": t["layers.0.key_scale"].half()}), "not float32"),
    "zero": (lambda t: t["layers.1.key_scale"].zero_(), "layers.1.key_scale holds scales that are not finite"),
    "nan": (lambda t: t["layers.1.key_scale"].fill_(float("nan")), "not finite and positive"),
}


@pytest.mark.parametrize("what", BAD)
def test_odd_scales_are_refused_by_name(what: str, config: ModelConfig) -> None:
    spoil, message = BAD[what]
    tensors = scales_of(config).tensors()
    spoil(tensors)
    with pytest.raises(ValueError, match=message):
        scales_from_tensors(tensors, config)
