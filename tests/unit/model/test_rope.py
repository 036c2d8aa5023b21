from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from helium_edge.model.rope import (
    apply_rope,
    reorder_interleaved_rows,
    restore_interleaved_rows,
    rope_tables,
)

POSITIONS = torch.tensor([1, 2, 7, 19, 64, 127])


def interleaved_rope(x: torch.Tensor, positions: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotate the pairs (2i, 2i+1) of (H, T, D) as complex numbers, in double precision."""
    dim = x.shape[-1]
    angles = positions[:, None].double() * theta ** (-torch.arange(0, dim, 2).double() / dim)
    turned = torch.view_as_complex(x.double().unflatten(-1, (dim // 2, 2)).contiguous())
    return torch.view_as_real(turned * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def half_split_rope(x: torch.Tensor, positions: torch.Tensor, theta: float) -> torch.Tensor:
    cos, sin = rope_tables(theta, x.shape[-1], 128)
    return apply_rope(x, cos[positions], sin[positions])


def keep(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    return weight


def score_error(reorder: Callable[[torch.Tensor, int], torch.Tensor], head_dim: int, theta: float) -> float:
    """Largest difference of q.k scores between the two layouts, relative to their rms."""
    heads, kv_heads, hidden, tokens = 4, 2, 32, len(POSITIONS)
    x = torch.randn(tokens, hidden)
    q_weight, k_weight = (
        torch.randn(heads * head_dim, hidden) * 0.3,
        torch.randn(kv_heads * head_dim, hidden) * 0.3,
    )

    def scores(
        q_weight: torch.Tensor,
        k_weight: torch.Tensor,
        rope: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor],
    ) -> torch.Tensor:
        q = rope((x @ q_weight.T).view(tokens, heads, head_dim).transpose(0, 1), POSITIONS, theta)
        k = rope((x @ k_weight.T).view(tokens, kv_heads, head_dim).transpose(0, 1), POSITIONS, theta)
        return (q @ k.repeat_interleave(heads // kv_heads, 0).transpose(1, 2)).double()

    expected = scores(q_weight, k_weight, interleaved_rope)
    found = scores(reorder(q_weight, head_dim), reorder(k_weight, head_dim), half_split_rope)
    return float((found - expected).abs().max() / expected.pow(2).mean().sqrt())


@pytest.mark.parametrize("theta", [500.0, 100000.0])
@pytest.mark.parametrize("head_dim", [2, 16, 64, 128])
def test_half_split_on_reordered_rows_is_interleaved_on_the_original(head_dim: int, theta: float) -> None:
    assert score_error(reorder_interleaved_rows, head_dim, theta) < 1e-4


@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_the_comparison_sees_a_missing_or_a_reversed_reordering(head_dim: int) -> None:
    assert score_error(keep, head_dim, 100000.0) > 0.3
    assert score_error(restore_interleaved_rows, head_dim, 100000.0) > 0.3


@pytest.mark.parametrize("shape", [(4 * 16, 24), (2 * 16,), (16, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reordering_is_undone(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = torch.randn(shape).to(dtype)
    there = reorder_interleaved_rows(weight, 16)
    assert there.shape == weight.shape
    assert there.dtype is dtype
    assert not torch.equal(there, weight)
    assert torch.equal(restore_interleaved_rows(there, 16), weight)
    assert torch.equal(reorder_interleaved_rows(restore_interleaved_rows(weight, 16), 16), weight)


def test_rows_of_a_head_are_evens_then_odds() -> None:
    assert reorder_interleaved_rows(torch.arange(12), 6).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


def test_columns_stay_where_they_are() -> None:
    weight = torch.arange(8 * 3).view(8, 3)
    assert reorder_interleaved_rows(weight, 4)[:, 0].tolist() == [0, 6, 3, 9, 12, 18, 15, 21]
    assert torch.equal(reorder_interleaved_rows(weight, 4) % 3, weight % 3)


@pytest.mark.parametrize(("theta", "head_dim"), [(100000.0, 128), (10000.0, 64), (500.0, 16)])
def test_tables_are_those_of_transformers(theta: float, head_dim: int) -> None:
    from transformers import HeliumConfig
    from transformers.models.helium.modeling_helium import HeliumRotaryEmbedding

    theirs = HeliumRotaryEmbedding(HeliumConfig(head_dim=head_dim, rope_theta=theta))
    cos, sin = theirs(torch.zeros(1, dtype=torch.float32), torch.arange(4096)[None])
    our_cos, our_sin = rope_tables(theta, head_dim, 4096)
    assert our_cos.shape == our_sin.shape == (4096, head_dim // 2)
    assert our_cos.dtype is our_sin.dtype is torch.float32
    assert torch.equal(our_cos, cos[0, :, : head_dim // 2])
    assert torch.equal(our_sin, sin[0, :, : head_dim // 2])


def test_tables_by_hand() -> None:
    cos, sin = rope_tables(100.0, 4, 3)
    angles = [[0.0, 0.0], [1.0, 0.1], [2.0, 0.2]]
    torch.testing.assert_close(cos, torch.tensor([[math.cos(a) for a in row] for row in angles]))
    torch.testing.assert_close(sin, torch.tensor([[math.sin(a) for a in row] for row in angles]))


def test_rotation_by_hand() -> None:
    cos, sin = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])  # a quarter turn, and none
    turned = apply_rope(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), cos, sin)
    assert turned.tolist() == [[[-3.0, 2.0, 1.0, 4.0]]]
