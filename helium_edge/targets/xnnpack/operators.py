"""Modules that carry the integers of the store in the operators that ExecuTorch lowers bit for bit.

A quantized projection is written as its meaning: activations quantized per token, weights dequantized, a linear
product. XNNPACK recognises the pattern and takes the codes and scales as they are; run by torch, it is the exact
emulation of that kernel. The operators are registered by `lowering.load_exporter`.

Shapes: T tokens, K / N input and output channels, G groups of a row, V vocabulary, C hidden_size,
Hkv key-value heads, S cache slots, D head_dim.

Source: torchao quant_primitives (choose_qparams_affine, quantize_affine, dequantize_affine), XNNPACK's
qd8-f32-qb4w and qd8-f32-qc8w kernels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's spelling
from torch import Tensor

from helium_edge.errors import HeliumEdgeError
from helium_edge.model.kv_cache import Side
from helium_edge.model.parts import CodedRows
from helium_edge.quant import QuantizedWeight
from helium_edge.quant.packing import embedding_4bit_weight

_INT8 = (-128, 127)
_INT4 = (-8, 7)


class QuantizedLinear(torch.nn.Module):
    """x @ weight.T + bias, activations quantized to int8 per token, weights int4 by groups or int8 by channel.

    Args:
        weight: Symmetric; int4 with scales that bfloat16 holds, which is how XNNPACK stores them.
        bias: (N,) float32, or None.

    Raises:
        HeliumEdgeError: XNNPACK would compute another product than this one.
    """

    bias: Tensor | None
    codes: Tensor

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None) -> None:
        super().__init__()
        check_weight(weight)
        columns = weight.codes.shape[1]
        self.block = (1, weight.scheme.group_size or columns)
        self.range = _INT4 if weight.scheme.bits == 4 else _INT8
        self.register_buffer("codes", weight.codes)
        self.register_buffer("scales", stored_scales(weight))
        self.register_buffer("zeros", torch.zeros((), dtype=torch.int8).expand(weight.scales.shape))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)."""
        torchao = torch.ops.torchao
        token = (1, x.shape[-1])
        scale, zero = torchao.choose_qparams_affine(
            x, "ASYMMETRIC", token, torch.int8, *_INT8, None, torch.float32, torch.int8
        )
        codes = torchao.quantize_affine(x, token, scale, zero, torch.int8, *_INT8)
        x = torchao.dequantize_affine(codes, token, scale, zero, torch.int8, *_INT8)
        weight = torchao.dequantize_affine(
            self.codes, self.block, self.scales, self.zeros, torch.int8, *self.range
        )
        return F.linear(x, weight, self.bias)


class QuantizedEmbedding(torch.nn.Module):
    """Rows of a (V, C) matrix of int8 codes by channel, or int4 codes by groups, dequantized as they are read."""

    def __init__(self, weight: QuantizedWeight) -> None:
        super().__init__()
        check_weight(weight)
        self.bits = weight.scheme.bits
        codes = weight.codes if self.bits == 8 else embedding_4bit_weight(weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", weight.scales.squeeze(1) if self.bits == 8 else weight.scales)

    def forward(self, token_ids: Tensor) -> Tensor:
        """(T,) int64 -> (T, C)."""
        library = torch.ops.quantized_decomposed
        if self.bits == 8:
            rows: Tensor = library.embedding_byte(self.codes, self.scales, None, *_INT8, token_ids)
        else:
            rows = library.embedding_4bit(self.codes, self.scales, None, *_INT4, token_ids)
        return rows


class Int8Rows(CodedRows):
    """Rows of an int8 cache: code = row * (1 / scale), rounded half to even and clamped.

    The operators have a scale of 1, of which XNNPACK makes conversions between float32 and int8: it has none with
    a scale for each channel.

    Args:
        scale: (Hkv, D) float32, positive.
        side: Of the cache.
        group: Query heads of one key-value head.
    """

    inverse: Tensor

    def __init__(self, scale: Tensor, side: Side, group: int) -> None:
        super().__init__()
        factor = scale.repeat_interleave(group, dim=0)
        self.register_buffer("inverse", scale.reciprocal()[:, None])
        self.register_buffer("factor", factor[:, None] if side == "key" else factor.view(-1))

    def forward(self, rows: Tensor) -> Tensor:
        """See `CodedRows.forward`."""
        return _quantize(rows * self.inverse)

    def read(self, codes: Tensor) -> Tensor:
        """See `CodedRows.read`.

        The clamp changes nothing. Where a product takes what a conversion from int8 gives, XNNPACK rewrites both
        and then orders all nodes anew, every layer's cache converted before the first is used: 2.3 GB more at 24
        layers and 2048 slots of Helium 2 B.
        """
        numbers = torch.ops.quantized_decomposed.dequantize_per_tensor(codes, 1.0, 0, *_INT8, torch.int8)
        return torch.clamp(numbers, *_INT8)

    def read_columns(self, codes: Tensor) -> Tensor:
        """See `CodedRows.read_columns`."""
        return self.read(codes).transpose(1, 2)


def _quantize(numbers: Tensor) -> Tensor:
    codes: Tensor = torch.ops.quantized_decomposed.quantize_per_tensor(numbers, 1.0, 0, *_INT8, torch.int8)
    return codes


def check_weight(weight: QuantizedWeight) -> None:
    """Refuse what XNNPACK would run silently and wrong; recipes that ask for it are refused much earlier.

    Raises:
        HeliumEdgeError: Zero points, or int4 scales that bfloat16 cannot hold.
    """
    if weight.zero_points is not None:
        raise HeliumEdgeError(f"{weight.scheme}: XNNPACK ignores zero points of weights")
    if weight.scheme.bits == 4 and not torch.equal(stored_scales(weight).float(), weight.scales):
        raise HeliumEdgeError(f"{weight.scheme}: scales must be representable in bfloat16")


def stored_scales(weight: QuantizedWeight) -> Tensor:
    """Scales in the type in which XNNPACK stores them: bfloat16 for int4, else float32."""
    return weight.scales.to(torch.bfloat16) if weight.scheme.bits == 4 else weight.scales
