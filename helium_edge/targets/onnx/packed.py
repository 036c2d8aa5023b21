"""From the quantized store to tensors of `weights.bin`, in the layout of a dialect.

Fuses q, k and v into one matrix where their schemes agree, streams one weight at a time, and changes no integer:
parity level L0 reads the same codes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch

from helium_edge.config import ModelConfig
from helium_edge.model.kv_cache import KvScales
from helium_edge.model.rope import rope_tables
from helium_edge.model.weights import EMBEDDING, FINAL_NORM, head_name, layer_name
from helium_edge.quant import QuantizedStore, QuantizedWeight
from helium_edge.quant.packing import (
    gather_block_weight,
    matmul_nbits_scales,
    matmul_nbits_weight,
    matmul_nbits_zero_points,
    onnx_int4_columns,
)
from helium_edge.recipe import Scheme
from helium_edge.targets.onnx.options import OnnxOptions
from helium_edge.targets.onnx.weights_file import WeightsFile

F32, U8, I8 = ir.DataType.FLOAT, ir.DataType.UINT8, ir.DataType.INT8


@dataclass(frozen=True)
class PackedMatrix:
    """A linear layer or the embedding, packed: (N, K) in its store order, whatever the layout of `weight`.

    Args:
        name: Prefix of its nodes and tensors.
        n: Output features, or vocabulary.
        k: Input features, or hidden size.
        scheme: Its format; None is float32.
        block: Weights along K per stored scale; K when there is one scale per channel.
        weight: Codes or float32 values.
        scales: Float32 scales, None for float32 weights.
        zero_points: Only for asymmetric schemes.
        bias: (N,) float32, if the layer has one.
    """

    name: str
    n: int
    k: int
    scheme: Scheme | None
    block: int
    weight: ir.ExternalTensor
    scales: ir.ExternalTensor | None = None
    zero_points: ir.ExternalTensor | None = None
    bias: ir.ExternalTensor | None = None


@dataclass(frozen=True)
class PackedLayer:
    """The weights of one decoder layer; `qkv` is one fused matrix, or three when their schemes differ."""

    norm1: ir.ExternalTensor
    qkv: tuple[PackedMatrix, ...]
    o: PackedMatrix
    norm2: ir.ExternalTensor
    gate: PackedMatrix
    up: PackedMatrix
    down: PackedMatrix


@dataclass(frozen=True)
class PackedModel:
    """All tensors that the graphs of one bundle refer to; `kv_scales` are of keys and values of each layer."""

    embedding: PackedMatrix
    layers: tuple[PackedLayer, ...]
    norm: ir.ExternalTensor
    head: PackedMatrix | None
    cos: ir.ExternalTensor
    sin: ir.ExternalTensor
    kv_scales: tuple[tuple[ir.ExternalTensor, ir.ExternalTensor], ...] = ()


class Packer:
    """Writes the store's weights into a weights file.

    Args:
        store: The quantized weights.
        file: Where they go.
        options: Dialect and block size.
        on_weight: Called with the name of each matrix once it is written.
    """

    def __init__(
        self, store: QuantizedStore, file: WeightsFile, options: OnnxOptions, on_weight: Callable[[str], None]
    ) -> None:
        self._store = store
        self._file = file
        self._options = options
        self._on_weight = on_weight
        self._portable = options.dialect == "portable"
        self._schemes = {planned.name: planned.scheme for planned in store.plan}

    def pack(self, cache_len: int, scales: KvScales | None = None) -> PackedModel:
        """Write everything; the RoPE tables have `cache_len` rows, `scales` are those of an int8 cache."""
        config = self._store.config
        head = head_name(config)
        cos, sin = rope_tables(config.rope_theta, config.head_dim, cache_len)
        return PackedModel(
            embedding=self._embedding(),
            layers=tuple(self._layer(config, layer) for layer in range(config.num_hidden_layers)),
            norm=self._vector(FINAL_NORM),
            head=self._matrix(head.removesuffix(".weight"), (head,), bias=config.score_bias) if head else None,
            cos=self._dense("rope.cos", cos),
            sin=self._dense("rope.sin", sin),
            kv_scales=() if scales is None else self._kv_scales(scales),
        )

    def _kv_scales(self, scales: KvScales) -> tuple[tuple[ir.ExternalTensor, ir.ExternalTensor], ...]:
        """(1, Hkv, 1, D) each, as GroupQueryAttention takes them."""
        found = [self._dense(name, tensor[None, :, None]) for name, tensor in scales.tensors().items()]
        return tuple(zip(found[::2], found[1::2], strict=True))

    def _layer(self, config: ModelConfig, layer: int) -> PackedLayer:
        def matrix(part: str, *kinds: str, bias: bool) -> PackedMatrix:
            names = [layer_name(layer, f"{part}.{kind}_proj.weight") for kind in kinds]
            return self._matrix(f"layers.{layer}.{''.join(kinds)}_proj", names, bias=bias)

        attention = "self_attn"
        names = [layer_name(layer, f"{attention}.{kind}_proj.weight") for kind in "qkv"]
        groups: Sequence[str] = ("qkv",) if len({self._schemes[name] for name in names}) == 1 else "qkv"
        return PackedLayer(
            norm1=self._vector(layer_name(layer, "input_layernorm.weight")),
            qkv=tuple(matrix(attention, *group, bias=config.attention_bias) for group in groups),
            o=matrix(attention, "o", bias=config.o_bias),
            norm2=self._vector(layer_name(layer, "post_attention_layernorm.weight")),
            gate=matrix("mlp", "gate", bias=config.mlp_bias),
            up=matrix("mlp", "up", bias=config.mlp_bias),
            down=matrix("mlp", "down", bias=config.mlp_bias),
        )

    def _take(self, name: str) -> QuantizedWeight | torch.Tensor:
        weight = self._store.get(name)
        self._on_weight(name)
        return weight

    def _dense(self, name: str, tensor: torch.Tensor) -> ir.ExternalTensor:
        return self._file.add(name, [tensor], F32, tuple(tensor.shape))

    def _vector(self, name: str) -> ir.ExternalTensor:
        return self._dense(name, self._store.vector(name))

    def _matrix(self, name: str, sources: Sequence[str], *, bias: bool = False) -> PackedMatrix:
        weights = [self._take(source) for source in sources]
        vectors = [self._store.vector(source.removesuffix("weight") + "bias") for source in sources if bias]
        packed_bias = self._dense(f"{name}.bias", torch.cat(vectors)) if vectors else None
        dense = [weight for weight in weights if isinstance(weight, torch.Tensor)]
        if dense:
            n, k = sum(len(weight) for weight in dense), dense[0].shape[1]
            columns = torch.cat([weight.T for weight in dense], dim=1)
            tensor = self._file.add(f"{name}.weight", [columns], F32, (k, n))
            return PackedMatrix(name, n, k, None, k, tensor, bias=packed_bias)
        quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
        pack = self._portable_matrix if self._portable else self._nbits_matrix
        return pack(name, quantized, packed_bias)

    def _nbits_matrix(
        self, name: str, weights: Sequence[QuantizedWeight], bias: ir.ExternalTensor | None
    ) -> PackedMatrix:
        """The layout of com.microsoft.MatMulNBits; parts are stacked along N."""
        scheme = weights[0].scheme
        n, k = sum(len(weight.codes) for weight in weights), weights[0].codes.shape[1]
        block = scheme.group_size or self._options.int8_block(k)
        blocks = -(-k // block)

        def add(kind: str, parts: Iterable[torch.Tensor], dtype: ir.DataType, *rest: int) -> ir.ExternalTensor:
            return self._file.add(f"{name}.{kind}", parts, dtype, (n, *rest))

        codes = (matmul_nbits_weight(weight, block) for weight in weights)
        scales = (matmul_nbits_scales(weight, block) for weight in weights)
        zeros = None
        points = [matmul_nbits_zero_points(weight, block) for weight in weights]
        if not scheme.symmetric:
            zeros = add("zero_points", [part for part in points if part is not None], U8, -(-blocks // 2))
        return PackedMatrix(
            name, n, k, scheme, block,
            add("weight", codes, U8, blocks, block * scheme.bits // 8),
            add("scales", scales, F32, blocks),
            zeros, bias,
        )  # fmt: skip

    def _portable_matrix(
        self, name: str, weights: Sequence[QuantizedWeight], bias: ir.ExternalTensor | None
    ) -> PackedMatrix:
        """Codes as (K, N) for DequantizeLinear along axis 0: the layout that runtimes fuse with MatMul."""
        scheme = weights[0].scheme
        codes = torch.cat([weight.codes for weight in weights])
        n, k = codes.shape
        block = scheme.group_size or self._options.int8_block(k)
        if k % block:
            block = k
        repeat = 1 if scheme.group_size else k // block
        scales = torch.cat([weight.scales for weight in weights]).repeat(1, repeat).T
        zeros = None
        if scheme.bits == 8:
            tensor = self._file.add(f"{name}.weight", [codes.T], I8, (k, n))
        else:
            dtype = ir.DataType.INT4 if scheme.symmetric else ir.DataType.UINT4
            tensor = self._file.add(f"{name}.weight", [onnx_int4_columns(codes)], dtype, (k, n))
            if not scheme.symmetric:
                points = torch.cat([w.zero_points for w in weights if w.zero_points is not None])
                zeros = self._file.add(f"{name}.zero_points", [onnx_int4_columns(points)], dtype, (k // block, n))
        shape = (k // block, n)
        packed_scales = self._file.add(f"{name}.scales", [scales], F32, shape)
        return PackedMatrix(name, n, k, scheme, block, tensor, packed_scales, zeros, bias)

    def _embedding(self) -> PackedMatrix:
        """Rows as (V, H): float32, or codes with their scales, for gathering."""
        name, weight = "embedding", self._take(EMBEDDING)
        if isinstance(weight, torch.Tensor):
            n, k = weight.shape
            return PackedMatrix(name, n, k, None, k, self._file.add(f"{name}.weight", [weight], F32, (n, k)))
        n, k = weight.codes.shape
        scheme = weight.scheme
        # One scale per row is repeated over as few blocks as the operator's power-of-two sizes allow.
        block = scheme.group_size or (k if self._portable else k & -k)
        zeros = None
        if self._portable and scheme.bits == 8:
            tensor = self._file.add(f"{name}.weight", [weight.codes], I8, (n, k))
        else:
            width = k * scheme.bits // 8
            tensor = self._file.add(f"{name}.weight", [gather_block_weight(weight)], U8, (n, width))
        points = weight.zero_points if self._portable else matmul_nbits_zero_points(weight, block)
        if points is not None:
            kind = I8 if self._portable else U8
            zeros = self._file.add(f"{name}.zero_points", [points], kind, tuple(points.shape))
        scales = self._file.add(f"{name}.scales", [matmul_nbits_scales(weight, block)], F32, (n, k // block))
        return PackedMatrix(name, n, k, scheme, block, tensor, scales, zeros)
