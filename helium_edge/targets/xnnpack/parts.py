"""`StoreParts`: the decoder's modules with the store's integers, for XNNPACK."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from helium_edge.model.kv_cache import KvScales, Side
from helium_edge.model.parts import DenseParts, Embedding, Linear, stacked_bias
from helium_edge.model.weights import EMBEDDING
from helium_edge.quant import QuantizedStore, QuantizedWeight
from helium_edge.targets.xnnpack.operators import Int8Rows, QuantizedEmbedding, QuantizedLinear, check_weight

Matrix = QuantizedWeight | Tensor
"""A quantized matrix, or (N, K) float32."""


class StoreParts(DenseParts):
    """Quantized modules where the store has integers, float32 modules where it has not.

    Projections of one input are one product where their schemes agree: fewer nodes, and one quantization of the
    activations instead of three. The integers are the same either way.

    Args:
        store: The weights.
        on_weight: Called with the name of each matrix once it is taken over.
        scales: Of an int8 cache; None where the cache is not quantized.
    """

    def __init__(
        self, store: QuantizedStore, on_weight: Callable[[str], None], scales: KvScales | None = None
    ) -> None:
        super().__init__(store.config, store)
        self._store = store
        self._on_weight = on_weight
        self._scales = scales
        self._keys = DistinctBiases()

    def embedding(self) -> torch.nn.Module:
        """See `Parts.embedding`."""
        weight = self._store.get(EMBEDDING)
        self._on_weight(EMBEDDING)
        return QuantizedEmbedding(weight) if isinstance(weight, QuantizedWeight) else Embedding(weight)

    def linear(self, names: Sequence[str]) -> torch.nn.Module:
        """See `Parts.linear`."""
        groups: list[list[str]] = []
        weights: dict[str, Matrix] = {}
        for name in names:
            weights[name] = self._store.get(name)
            if groups and _format(weights[groups[-1][-1]]) == _format(weights[name]):
                groups[-1].append(name)
            else:
                groups.append([name])
        parts = [self._product(group, [weights.pop(name) for name in group]) for group in groups]
        for name in names:
            self._on_weight(name)
        return parts[0] if len(parts) == 1 else SideBySide(parts)

    def cache_rows(self, layer: int, side: Side) -> torch.nn.Module | None:
        """See `Parts.cache_rows`."""
        if self._scales is None:
            return None
        config = self._store.config
        group = config.num_attention_heads // config.num_key_value_heads
        return Int8Rows(self._scales.side(layer, side), side, group)

    def _product(self, names: Sequence[str], weights: Sequence[Matrix]) -> torch.nn.Module:
        bias = stacked_bias(self._store.config, self._store, names)
        matrix = stack_matrices(weights)
        module: torch.nn.Module
        if isinstance(matrix, Tensor):
            module = Linear(matrix, bias)
        else:
            module = QuantizedLinear(matrix, self._keys.distinguish(matrix, bias))
        self._made(names, matrix, module)
        return module

    def _made(self, names: Sequence[str], matrix: Matrix, module: torch.nn.Module) -> None:
        """Called with each product, its matrix and the names of what is stacked in it; for subclasses."""


def stack_matrices(weights: Sequence[Matrix]) -> Matrix:
    """Matrices of one format, one below the other.

    Raises:
        HeliumEdgeError: XNNPACK would compute another product than theirs.
    """
    quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
    if not quantized:
        return torch.cat([weight for weight in weights if isinstance(weight, Tensor)])
    for weight in quantized:
        check_weight(weight)
    if len(quantized) == 1:
        return quantized[0]  # a head is hundreds of megabytes
    return QuantizedWeight(
        quantized[0].scheme,
        torch.cat([part.codes for part in quantized]),
        torch.cat([part.scales for part in quantized]),
    )


class SideBySide(torch.nn.Module):
    """Several projections of one input, outputs concatenated."""

    def __init__(self, parts: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N1 + N2 + ...)."""
        return torch.cat([part(x) for part in self.parts], dim=-1)


class DistinctBiases:
    """Sees to it that weights which differ only in their scales stay apart in XNNPACK's weight cache.

    The cache knows a packed weight by the bytes of its codes and of its bias: two matrices with equal codes and
    other scales (one is a multiple of the other) would silently share the scales of the first.
    """

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def distinguish(self, weight: QuantizedWeight, bias: Tensor | None) -> Tensor | None:
        """The bias, or where another weight has its key, one of other bytes and equal values."""
        identity = f"{weight.shape} {_digest(weight.scales)}"
        codes = _digest(weight.codes)
        for variant in range(weight.shape[0] + 1):
            candidate = _same_values(bias, weight.shape[0], variant)
            key = codes + ("" if candidate is None else _digest(candidate))
            if self._seen.setdefault(key, identity) == identity:
                return candidate
        return bias


def _same_values(bias: Tensor | None, rows: int, variant: int) -> Tensor | None:
    """A bias that adds the same: variant 0 as it is, else one of its zeros is a negative zero."""
    if variant == 0:
        return bias
    values = torch.zeros(rows) if bias is None else bias.clone()
    zeros = (values == 0).nonzero().flatten()
    if variant <= len(zeros):
        values[zeros[variant - 1]] = -0.0
    return values


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()


def _format(weight: Matrix) -> str:
    return str(weight.scheme) if isinstance(weight, QuantizedWeight) else "float32"
