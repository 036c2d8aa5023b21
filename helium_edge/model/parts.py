"""The modules that carry the decoder's weights: embedding, projections, norms.

The decoder says what is computed; `Parts` says what carries the numbers: float32 matrices here, integers in a
target that knows the operators of its runtime.

Shapes: T tokens of this call, K / N input and output channels, C hidden_size, V vocabulary, S cache slots,
H / Hkv query / key-value heads, D head_dim.

Source: transformers modeling_helium.py (HeliumRMSNorm).
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the field's spelling
from torch import Tensor
from typing_extensions import override

from helium_edge.config import ModelConfig
from helium_edge.model.kv_cache import Side
from helium_edge.model.weights import EMBEDDING


class WeightSource(Protocol):
    """Where the decoder takes its float32 weights from; `QuantizedStore` is one."""

    def dense(self, name: str) -> Tensor:
        """A matrix, (N, K) float32, q and k rows laid out for half-split RoPE."""
        ...

    def vector(self, name: str) -> Tensor:
        """A norm gain or bias, (N,) float32."""
        ...


class Parts(Protocol):
    """Makes the modules of a decoder; each weight is asked for once, in the order of the forward pass."""

    def embedding(self) -> torch.nn.Module:
        """A module (T,) int64 -> (T, C)."""
        ...

    def linear(self, names: Sequence[str]) -> torch.nn.Module:
        """A module (T, K) -> (T, N1 + N2 + ...): projections of one input side by side, with their biases."""
        ...

    def norm(self, name: str) -> torch.nn.Module:
        """A module (T, C) -> (T, C): root-mean-square norm with the gain of that name."""
        ...

    def cache_rows(self, layer: int, side: Side) -> torch.nn.Module | None:
        """A module (Hkv, T, D) -> (Hkv, T, D): what new rows become in the cache; None where they stay.

        `CodedRows` where the cache holds their codes, and the decoder takes and returns those.
        """
        ...

    def query_rows(self, layer: int) -> torch.nn.Module | None:
        """A module (H, T, D) -> (H, T, D): what queries become before attention; None where they stay."""
        ...

    def attended_rows(self, layer: int) -> torch.nn.Module | None:
        """A module (T, H * D) -> (T, H * D): what the result of attention becomes; None where it stays."""
        ...


class DenseParts(Parts):
    """Parts in plain float32.

    Args:
        config: The model.
        weights: Source of float32 weights.
    """

    def __init__(self, config: ModelConfig, weights: WeightSource) -> None:
        self._config = config
        self._weights = weights

    @override
    def embedding(self) -> torch.nn.Module:
        return Embedding(self._weights.dense(EMBEDDING))

    @override
    def linear(self, names: Sequence[str]) -> torch.nn.Module:
        weight = torch.cat([self._weights.dense(name) for name in names])
        return Linear(weight, stacked_bias(self._config, self._weights, names))

    @override
    def norm(self, name: str) -> torch.nn.Module:
        return RmsNorm(self._weights.vector(name), self._config.rms_norm_eps)

    @override
    def cache_rows(self, layer: int, side: Side) -> torch.nn.Module | None:
        """Float32 rows stay as they are."""
        return None

    @override
    def query_rows(self, layer: int) -> torch.nn.Module | None:
        return None

    @override
    def attended_rows(self, layer: int) -> torch.nn.Module | None:
        return None


class CodedRows(torch.nn.Module, abc.ABC):
    """One side of a layer's int8 cache, where the graph itself turns rows into codes and reads codes.

    Attention runs on the codes as they are: what they are worth is multiplied into the queries (scales of keys)
    and into the result (scales of values), and not into every slot of the cache.

    Attributes:
        factor: Of keys (H, 1, D), for the queries; of values (H * D,), for the result of attention.
    """

    factor: Tensor

    @abc.abstractmethod
    def forward(self, rows: Tensor) -> Tensor:
        """Rows (Hkv, T, D) float32 to codes, int8."""

    @abc.abstractmethod
    def read(self, codes: Tensor) -> Tensor:
        """Codes (Hkv, S, D) as float32 numbers from -128 to 127."""

    @abc.abstractmethod
    def read_columns(self, codes: Tensor) -> Tensor:
        """The same, transposed to (Hkv, D, S)."""


class Embedding(torch.nn.Module):
    """Rows of a (V, C) matrix."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, token_ids: Tensor) -> Tensor:
        """(T,) int64 -> (T, C)."""
        return F.embedding(token_ids, self.weight)


class Linear(torch.nn.Module):
    """x @ weight.T + bias with a (N, K) weight."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)."""
        return F.linear(x, self.weight, self.bias)


class RmsNorm(torch.nn.Module):
    """Root-mean-square norm over the last axis, in float32 including the gain.

    eps is 1e-8 in released models, below float16's smallest subnormal: the norm never runs in float16.
    """

    gain: Tensor
    average: Tensor

    def __init__(self, gain: Tensor, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("gain", gain)
        # The mean as a product with a row of 1/C: XNNPACK knows no mean over the last axis of a matrix, and one
        # operator outside would cut the graph in two at every norm.
        self.register_buffer("average", torch.full((1, gain.shape[0]), 1.0 / gain.shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        variance = F.linear(x * x, self.average)
        return x * torch.rsqrt(variance + self.eps) * self.gain


def bias_name(config: ModelConfig, name: str) -> str | None:
    """Name of the bias that goes with a weight, or None when it has none."""
    kind = name.rsplit(".", 2)[-2]
    if kind in ("q_proj", "k_proj", "v_proj"):
        has_bias = config.attention_bias
    elif kind in ("o_proj", "score"):
        has_bias = config.o_bias if kind == "o_proj" else config.score_bias
    else:
        has_bias = config.mlp_bias and kind in ("gate_proj", "up_proj", "down_proj")
    return name.removesuffix("weight") + "bias" if has_bias else None


def stacked_bias(config: ModelConfig, weights: WeightSource, names: Sequence[str]) -> Tensor | None:
    """Biases of several weights end to end, or None where none of them has one.

    Raises:
        ValueError: Some have one and some have not; such weights are not projections of one input.
    """
    biases = [bias_name(config, name) for name in names]
    if not any(biases):
        return None
    if None in biases:
        raise ValueError(f"{', '.join(names)}: some have a bias and some have not")
    return torch.cat([weights.vector(bias) for bias in biases if bias is not None])
