"""Rotary position embedding: tables, and the row reordering that turns interleaved into half-split RoPE.

Every graph of ours uses half-split RoPE (pairs (i, i + D/2)): the only form that WebGPU and onnxruntime-genai
accept. `model_type: helium` checkpoints pair (2i, 2i+1); reordering the q and k rows of each head (evens, then
odds) makes the two equal, because q and k move alike and scores are dot products. Rows move along N, so groups
along K stay intact; it is done before quantization.

Source: transformers modeling_helium.py, HeliumRotaryEmbedding and apply_rotary_pos_emb.
"""

from __future__ import annotations

import torch


def reorder_interleaved_rows(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorder the rows of a q or k projection, per head: evens first, then odds.

    Args:
        weight: (H * D, K) weight or (H * D,) bias, laid out for interleaved RoPE.
        head_dim: D, even.

    Returns:
        The same values, laid out for half-split RoPE.
    """
    pairs = weight.reshape(-1, head_dim // 2, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)


def restore_interleaved_rows(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Undo `reorder_interleaved_rows`; needed to compare cached keys with Hugging Face."""
    halves = weight.reshape(-1, 2, head_dim // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def rope_tables(theta: float, head_dim: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of every angle, each (length, D/2) float32.

    Computed as the reference computes it: inverse frequencies and angles in float32. A float64 table would be
    nearer to the formula and further from the model that was trained.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    inverse_frequencies = 1.0 / (theta**exponents)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * inverse_frequencies[None, :]
    return angles.cos(), angles.sin()


def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate heads by half-split RoPE.

    Args:
        x: (H, T, D).
        cos: (T, D/2), rows of `rope_tables` at the positions of the T tokens.
        sin: Likewise.

    Returns:
        (H, T, D).
    """
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
