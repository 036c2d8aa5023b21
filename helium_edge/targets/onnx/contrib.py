"""The contrib dialect: com.microsoft operators, cache updated in place by GroupQueryAttention.

The fastest CPU form measured: decode 24 to 30 tokens/s where standard operators give 7 (docs/adr/0002).
Source: onnxruntime docs/ContribOperators.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from helium_edge.config import ModelConfig
from helium_edge.signature import (
    ATTENTION_MASK,
    INPUT_IDS,
    PAST_LENGTH,
    GraphSignature,
    TextSignature,
    past_name,
    present_name,
)
from helium_edge.targets.onnx.builder import CONTRIB, GraphBuilder
from helium_edge.targets.onnx.common import add_bias, dense_linear, row_dim
from helium_edge.targets.onnx.options import OnnxOptions
from helium_edge.targets.onnx.packed import PackedMatrix, PackedModel

I32, I64, F32, F16 = ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.FLOAT16

INT8_CACHE: dict[str, Any] = {
    "k_quant_type": "PER_CHANNEL",
    "v_quant_type": "PER_CHANNEL",
    "kv_cache_bit_width": 8,
}
"""Attributes of GroupQueryAttention over an int8 cache; its scales are inputs 12 and 13. onnxruntime >= 1.27."""


class ContribDialect:
    """Emits operators into one graph; see `Dialect` in decoder.py."""

    def __init__(
        self, builder: GraphBuilder, config: ModelConfig, model: PackedModel, options: OnnxOptions
    ) -> None:
        self._builder = builder
        self._config = config
        self._model = model
        self._options = options
        self._seqlens, self._total = self._lengths()
        self._half = isinstance(builder.signature, GraphSignature) and builder.signature.cache.dtype == "float16"
        self._past = self._past_length() if self._half else None

    def _past_length(self) -> ir.Value:
        """(1,) int64, the position of the first new token."""
        b = self._builder
        past = b.inputs.get(PAST_LENGTH)
        if past is None:
            others = b.op("Sub", [self._tokens(), self._one()], (1,), dtype=I32)
            past = b.op("Sub", [self._seqlens, others], (1,), dtype=I32)
        return b.op("Cast", [past], (1,), dtype=I64, attributes={"to": I64})

    def _one(self) -> ir.Value:
        return self._builder.constant("one", np.array([1], np.int32))

    def _tokens(self) -> ir.Value:
        """(1,) int32: T."""
        b = self._builder
        if isinstance(b.signature.token_dim, int):
            return b.constant("tokens", np.array([b.signature.token_dim], np.int32))
        shape = b.op("Shape", [b.inputs[INPUT_IDS]], (1,), dtype=I64, attributes={"start": 1, "end": 2})
        return b.op("Cast", [shape], (1,), dtype=I32, attributes={"to": I32})

    def _lengths(self) -> tuple[ir.Value, ir.Value]:
        """GroupQueryAttention's two lengths: (1,) past + T - 1, and the scalar past + T."""
        b = self._builder
        if isinstance(b.signature, TextSignature):
            count = b.signature.tokens
            seqlens = b.constant("seqlens", np.array([count - 1], np.int32))
            return seqlens, b.constant("total", np.array(count, np.int32))
        if b.signature.genai:
            mask = b.inputs[ATTENTION_MASK]
            # The attention mask of one unpadded sequence: its sum is its length.
            valid = b.op("ReduceSum", [mask, b.ints(1)], (1,), dtype=I64, attributes={"keepdims": 0})
            seen = b.op("Cast", [valid], (1,), dtype=I32, attributes={"to": I32})
            seqlens = b.op("Sub", [seen, self._one()], (1,), dtype=I32)
            width = b.op("Shape", [mask], (1,), dtype=I64, attributes={"start": 1, "end": 2})
            total = b.op("Cast", [width], (1,), dtype=I32, attributes={"to": I32})
        else:
            total = b.op("Add", [b.inputs[PAST_LENGTH], self._tokens()], (1,), dtype=I32)
            seqlens = b.op("Sub", [total, self._one()], (1,), dtype=I32)
        return seqlens, b.op("Squeeze", [total], (), dtype=I32)

    def embed(self, ids: ir.Value) -> ir.Value:
        """(1, T) ids to (1, T, C)."""
        b, table = self._builder, self._model.embedding
        shape = (1, b.signature.token_dim, table.k)
        if table.scales is None or table.scheme is None:
            return b.op("Gather", [b.weight(table.weight), ids], shape)
        if b.older:
            return self._embed_in_parts(ids, table, table.scales, table.scheme.bits)
        inputs = [b.weight(table.weight), ids, b.weight(table.scales)]
        if table.zero_points is not None:
            inputs.append(b.weight(table.zero_points))
        attributes = {
            "bits": table.scheme.bits, "block_size": table.block, "gather_axis": 0, "quantize_axis": 1,
        }  # fmt: skip
        return b.op("GatherBlockQuantized", inputs, shape, domain=CONTRIB, attributes=attributes)

    def _embed_in_parts(
        self, ids: ir.Value, table: PackedMatrix, scales: ir.ExternalTensor, bits: int
    ) -> ir.Value:
        """GatherBlockQuantized in standard operators, over the same bytes.

        Its kernel for unsigned codes came with onnxruntime 1.23, and the WebGPU build of onnxruntime-web has none.
        """
        b, tokens = self._builder, self._builder.signature.token_dim
        blocks = table.k // table.block
        grouped = (1, tokens, blocks, table.block)
        codes = self._gather_codes(table.weight, ids, table.k, bits)
        codes = b.op("Reshape", [codes, b.ints(1, -1, blocks, table.block)], grouped)
        if table.zero_points is None:
            zeros = b.constant(f"zero{bits}", np.array(1 << (bits - 1), np.float32))
        else:
            # Two to a byte; of an odd number of blocks the last nibble is padding.
            width = -(-blocks // 2) * 2
            zeros = self._gather_codes(table.zero_points, ids, width, bits)
            if width != blocks:
                zeros = b.op("Slice", [zeros, b.ints(0), b.ints(blocks), b.ints(2)], (1, tokens, blocks))
            zeros = b.op("Unsqueeze", [zeros, b.ints(3)], (1, tokens, blocks, 1))
        codes = b.op("Sub", [codes, zeros], grouped)
        rows = b.op("Gather", [b.weight(scales), ids], (1, tokens, blocks))
        values = b.op("Mul", [codes, b.op("Unsqueeze", [rows, b.ints(3)], (1, tokens, blocks, 1))], grouped)
        return b.op("Reshape", [values, b.ints(1, -1, table.k)], (1, tokens, table.k))

    def _gather_codes(self, packed: ir.ExternalTensor, ids: ir.Value, width: int, bits: int) -> ir.Value:
        """(1, T, width) float32 codes of the rows of a (V, width * bits / 8) uint8 tensor, low nibble first."""
        b, tokens = self._builder, self._builder.signature.token_dim
        stored = width * bits // 8
        rows = b.op("Gather", [b.weight(packed), ids], (1, tokens, stored), dtype=ir.DataType.UINT8)
        rows = b.op("Cast", [rows], (1, tokens, stored), attributes={"to": F32})
        if bits == 8:
            return rows
        # In float32, exactly: WebGPU has no integers of 8 bits.
        sixteen = b.constant("sixteen", np.array(16, np.float32))
        high = b.op("Floor", [b.op("Div", [rows, sixteen], (1, tokens, stored))], (1, tokens, stored))
        low = b.op("Sub", [rows, b.op("Mul", [high, sixteen], (1, tokens, stored))], (1, tokens, stored))
        pair = [b.op("Unsqueeze", [part, b.ints(3)], (1, tokens, stored, 1)) for part in (low, high)]
        both = b.op("Concat", pair, (1, tokens, stored, 2), attributes={"axis": 3})
        return b.op("Reshape", [both, b.ints(1, -1, width)], (1, tokens, width))

    def linear(self, x: ir.Value, matrix: PackedMatrix) -> ir.Value:
        """(1, R, K) to (1, R, N)."""
        b = self._builder
        if matrix.scheme is None or matrix.scales is None:
            return dense_linear(b, x, matrix)
        head = matrix is self._model.head
        level = self._options.head_accuracy_level if head else self._options.accuracy_level
        inputs = [x, b.weight(matrix.weight), b.weight(matrix.scales)]
        if matrix.zero_points is not None:
            inputs.append(b.weight(matrix.zero_points))
        attributes = {
            "K": matrix.k, "N": matrix.n, "bits": matrix.scheme.bits, "block_size": matrix.block,
            "accuracy_level": level,
        }  # fmt: skip
        product = b.op("MatMulNBits", inputs, (1, row_dim(x), matrix.n), domain=CONTRIB, attributes=attributes)
        return add_bias(b, product, matrix)

    def attention(self, layer: int, qkv: Sequence[ir.Value]) -> ir.Value:
        """Rotate, write the cache, attend: (1, T, C). One input is q, k and v packed."""
        b, config = self._builder, self._config
        tables = [b.weight(self._model.cos), b.weight(self._model.sin)]
        kind = F16 if self._half else F32
        if self._half:
            qkv, tables = [self._turned(qkv, *tables)], []
        query, key, value = (qkv[0], None, None) if len(qkv) == 1 else (qkv[0], qkv[1], qkv[2])
        past = [b.inputs.get(past_name(layer, "key")), b.inputs.get(past_name(layer, "value"))]
        inputs = [query, key, value, *past, self._seqlens, self._total, *tables]
        attributes: dict[str, Any] = {
            "num_heads": config.num_attention_heads,
            "kv_num_heads": config.num_key_value_heads,
            "scale": 1.0 / math.sqrt(config.head_dim),
            "do_rotary": int(bool(tables)),
            # Rows were reordered when they were read; WebGPU and onnxruntime-genai take nothing else.
            "rotary_interleaved": 0,
        }
        has_cache = not isinstance(b.signature, TextSignature)
        result, cache = kind, self._present_shape()
        if self._model.kv_scales:
            kind = ir.DataType.INT8
            # Between them position_ids, attention_bias and head_sink.
            inputs += [None, None, None, *(b.weight(scale) for scale in self._model.kv_scales[layer])]
            attributes |= INT8_CACHE
        out, new_key, new_value = b.multi_op(
            "GroupQueryAttention", inputs,
            [(result, (1, b.signature.token_dim, config.hidden_size)), (kind, cache), (kind, cache)],
            domain=CONTRIB, attributes=attributes,
        )  # fmt: skip
        if has_cache:
            b.output(present_name(layer, "key"), new_key)
            b.output(present_name(layer, "value"), new_value)
        return self._cast(out, config.hidden_size, F32) if self._half else out

    def _turned(self, qkv: Sequence[ir.Value], cos: ir.Value, sin: ir.Value) -> ir.Value:
        """(1, T, C + 2 Hkv D) float16: q, k and v packed, q and k rotated.

        In float32, and rounded once: the rotation within GroupQueryAttention would round before it, after it and
        in its tables, and not in the same way on every processor.
        """
        b, config, tokens = self._builder, self._config, self._builder.signature.token_dim
        turning, rest = config.hidden_size + config.kv_size, config.kv_size
        if len(qkv) == 1:
            parts = [(F32, (1, tokens, width)) for width in (turning, rest)]
            turned, value = b.multi_op("Split", [qkv[0], b.ints(turning, rest)], parts, attributes={"axis": 2})
        else:
            turned = b.op("Concat", qkv[:2], (1, tokens, turning), attributes={"axis": 2})
            value = qkv[2]
        turned = b.op(
            "RotaryEmbedding", [turned, self._past, cos, sin], (1, tokens, turning),
            domain=CONTRIB, attributes={"interleaved": 0},
        )  # fmt: skip
        width = turning + rest
        packed = b.op("Concat", [turned, value], (1, tokens, width), attributes={"axis": 2})
        return self._cast(packed, width, F16)

    def _cast(self, x: ir.Value, width: int, dtype: ir.DataType) -> ir.Value:
        """(1, T, width) in another type."""
        shape = (1, self._builder.signature.token_dim, width)
        return self._builder.op("Cast", [x], shape, dtype=dtype, attributes={"to": dtype})

    def _present_shape(self) -> tuple[int, ...]:
        """Of a layer's keys; without a cache the kernel still returns those of the call, which nobody reads."""
        signature = self._builder.signature
        if isinstance(signature, TextSignature):
            return (1, self._config.num_key_value_heads, signature.tokens, self._config.head_dim)
        return signature.cache.shape

    def add_norm(self, x: ir.Value, residual: ir.Value, gain: ir.ExternalTensor) -> tuple[ir.Value, ir.Value]:
        """RMSNorm of x + residual, and that sum."""
        b = self._builder
        shape = (1, b.signature.token_dim, self._config.hidden_size)
        normed, _, _, total = b.multi_op(
            "SkipSimplifiedLayerNormalization",
            [x, residual, b.weight(gain)],
            [(F32, shape), None, None, (F32, shape)],
            domain=CONTRIB,
            attributes={"epsilon": self._config.rms_norm_eps},
        )
        return normed, total
