"""The portable dialect: standard operators of opset 23 only, cache rows appended by the host.

Scores on the past and on the new tokens are computed apart and only the scores are concatenated: concatenating
the caches would copy them at every step. Weights stay integers behind DequantizeLinear, in the layout that
runtimes with a blockwise kernel fuse with the MatMul that follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from helium_edge.config import ModelConfig
from helium_edge.signature import INPUT_IDS, PAST_LENGTH, Dim, GraphSignature, TextSignature, new_name, past_name
from helium_edge.targets.onnx.builder import GraphBuilder
from helium_edge.targets.onnx.common import add_bias, dense_linear, rms_norm, row_dim
from helium_edge.targets.onnx.options import OnnxOptions
from helium_edge.targets.onnx.packed import PackedMatrix, PackedModel

I32, I64, F32, U8 = ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.UINT8
BOOL = ir.DataType.BOOL
MASKED = -1e9
"""Added to scores that must not be seen; finite, so that no row becomes NaN."""


class PortableDialect:
    """Emits operators into one graph; see `Dialect` in decoder.py."""

    def __init__(
        self, builder: GraphBuilder, config: ModelConfig, model: PackedModel, options: OnnxOptions
    ) -> None:
        del options  # the accuracy levels are attributes of contrib operators
        self._builder = builder
        self._config = config
        self._model = model
        self._groups = config.num_attention_heads // config.num_key_value_heads
        offsets = self._offsets()
        self._positions = self._position_ids(offsets)
        self._past_mask = self._mask_past()
        self._new_mask = self._mask_new(offsets)

    @property
    def _tokens(self) -> Dim:
        return self._builder.signature.token_dim

    @property
    def _query_rows(self) -> Dim:
        """G * T, the rows of one key-value head's queries."""
        return self._tokens * self._groups if isinstance(self._tokens, int) else f"{self._groups}*T"

    def _offsets(self) -> ir.Value:
        """0 .. T-1, int64."""
        b = self._builder
        if isinstance(self._tokens, int):
            return b.constant("offsets", np.arange(self._tokens, dtype=np.int64))
        shape = b.op("Shape", [b.inputs[INPUT_IDS]], (1,), dtype=I64, attributes={"start": 1, "end": 2})
        count = b.op("Squeeze", [shape], (), dtype=I64)
        zero, one = b.constant("zero", np.array(0, np.int64)), b.constant("one", np.array(1, np.int64))
        return b.op("Range", [zero, count, one], (self._tokens,), dtype=I64)

    def _position_ids(self, offsets: ir.Value) -> ir.Value:
        """(1, T) int64: past_length + 0 .. T-1; without a cache there is no past."""
        b = self._builder
        if isinstance(b.signature, TextSignature):
            return b.constant("position_ids", np.arange(b.signature.tokens, dtype=np.int64)[None])
        past = b.op("Cast", [b.inputs[PAST_LENGTH]], (1,), dtype=I64, attributes={"to": I64})
        row = b.op("Add", [offsets, past], (self._tokens,), dtype=I64)
        return b.op("Unsqueeze", [row, b.ints(0)], (1, self._tokens), dtype=I64)

    def _penalty(self, seen: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        b = self._builder
        zero, masked = np.array(0, np.float32), np.array(MASKED, np.float32)
        return b.op("Where", [seen, b.constant("seen", zero), b.constant("masked", masked)], shape)

    def _mask_past(self) -> ir.Value | None:
        """(S,): 0 for the slots that hold tokens, MASKED for the others; None without a cache."""
        b = self._builder
        if isinstance(b.signature, TextSignature):
            return None
        slots = b.signature.cache.cache_len
        index = b.constant("slots", np.arange(slots, dtype=np.int32))
        seen = b.op("Less", [index, b.inputs[PAST_LENGTH]], (slots,), dtype=BOOL)
        return self._penalty(seen, (slots,))

    def _mask_new(self, offsets: ir.Value) -> ir.Value | None:
        """(G * T, T): causal among the new tokens; None for a single one, which sees itself."""
        b, tokens = self._builder, self._tokens
        if tokens == 1:
            return None
        rows = b.op("Unsqueeze", [offsets, b.ints(1)], (tokens, 1), dtype=I64)
        seen = b.op("LessOrEqual", [offsets, rows], (tokens, tokens), dtype=BOOL)
        mask = self._penalty(seen, (tokens, tokens))
        if self._groups == 1:
            return mask
        return b.op("Tile", [mask, b.ints(self._groups, 1)], (self._query_rows, tokens))

    def embed(self, ids: ir.Value) -> ir.Value:
        """(1, T) ids to (1, T, C)."""
        b, table, tokens = self._builder, self._model.embedding, self._tokens
        shape = (1, tokens, table.k)
        if table.scheme is None or table.scales is None:
            return b.op("Gather", [b.weight(table.weight), ids], shape)
        blocks = table.k // table.block
        grouped = (1, tokens, blocks, table.block)
        if table.scheme.bits == 8:
            rows = b.op("Gather", [b.weight(table.weight), ids], shape, dtype=ir.DataType.INT8)
        else:
            rows = self._unpack_nibbles(
                b.op("Gather", [b.weight(table.weight), ids], (1, tokens, table.k // 2), dtype=U8)
            )
        codes = b.op("Cast", [rows], shape, attributes={"to": F32})
        codes = b.op("Reshape", [codes, b.ints(1, -1, blocks, table.block)], grouped)
        if table.scheme.bits == 4:
            codes = b.op("Sub", [codes, self._embedding_zero(ids, blocks)], grouped)
        scales = b.op("Gather", [b.weight(table.scales), ids], (1, tokens, blocks))
        scales = b.op("Unsqueeze", [scales, b.ints(3)], (1, tokens, blocks, 1))
        values = b.op("Mul", [codes, scales], grouped)
        return b.op("Reshape", [values, b.ints(1, -1, table.k)], shape)

    def _unpack_nibbles(self, packed: ir.Value) -> ir.Value:
        """(1, T, C/2) bytes to (1, T, C) codes, even index in the low nibble; few runtimes gather 4-bit types."""
        b, width = self._builder, self._model.embedding.k
        half = (1, self._tokens, width // 2)
        low = b.op("BitwiseAnd", [packed, b.constant("nibble", np.array(15, np.uint8))], half, dtype=U8)
        shift = b.constant("four", np.array(4, np.uint8))
        high = b.op("BitShift", [packed, shift], half, dtype=U8, attributes={"direction": "RIGHT"})
        pair = [b.op("Unsqueeze", [part, b.ints(3)], (*half, 1), dtype=U8) for part in (low, high)]
        both = b.op("Concat", pair, (*half, 2), dtype=U8, attributes={"axis": 3})
        return b.op("Reshape", [both, b.ints(1, -1, width)], (1, self._tokens, width), dtype=U8)

    def _embedding_zero(self, ids: ir.Value, blocks: int) -> ir.Value:
        b, points = self._builder, self._model.embedding.zero_points
        if points is None:
            return b.constant("int4_zero", np.array(8, np.float32))
        shape = (1, self._tokens, blocks)
        rows = b.op("Gather", [b.weight(points), ids], shape, dtype=ir.DataType.INT8)
        values = b.op("Cast", [rows], shape, attributes={"to": F32})
        return b.op("Unsqueeze", [values, b.ints(3)], (*shape, 1))

    def linear(self, x: ir.Value, matrix: PackedMatrix) -> ir.Value:
        """(1, R, K) to (1, R, N)."""
        b = self._builder
        if matrix.scheme is None or matrix.scales is None:
            return dense_linear(b, x, matrix)
        inputs = [b.weight(matrix.weight), b.weight(matrix.scales)]
        if matrix.zero_points is not None:
            inputs.append(b.weight(matrix.zero_points))
        attributes = {"axis": 0, "block_size": matrix.block}
        weight = b.op("DequantizeLinear", inputs, (matrix.k, matrix.n), attributes=attributes)
        product = b.op("MatMul", [x, weight], (1, row_dim(x), matrix.n))
        return add_bias(b, product, matrix)

    def attention(self, layer: int, qkv: Sequence[ir.Value]) -> ir.Value:
        """Rotate, return the new rows, attend: (1, T, C)."""
        b, config, tokens = self._builder, self._config, self._tokens
        heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        query, key, value = self._split(qkv)
        query = self._rotate(self._heads(query, heads), heads)
        scale = b.constant("scale", np.array(1.0 / math.sqrt(dim), np.float32))
        query = b.op("Mul", [query, scale], (1, heads, tokens, dim))
        folded = (kv_heads, self._query_rows, dim)
        query = b.op("Reshape", [query, b.ints(kv_heads, -1, dim)], folded)
        rows = (kv_heads, tokens, dim)
        key = b.op("Squeeze", [self._rotate(self._heads(key, kv_heads), kv_heads), b.ints(0)], rows)
        value = b.op("Squeeze", [self._heads(value, kv_heads), b.ints(0)], rows)
        if isinstance(b.signature, TextSignature):
            out = self._attend_new(query, key, value)
        else:
            b.output(new_name(layer, "key"), key)
            b.output(new_name(layer, "value"), value)
            out = self._attend(layer, b.signature, query, key, value)
        out = b.op("Reshape", [out, b.ints(1, heads, -1, dim)], (1, heads, tokens, dim))
        out = b.op("Transpose", [out], (1, tokens, heads, dim), attributes={"perm": [0, 2, 1, 3]})
        return b.op("Reshape", [out, b.ints(1, -1, heads * dim)], (1, tokens, heads * dim))

    def _split(self, qkv: Sequence[ir.Value]) -> Sequence[ir.Value]:
        if len(qkv) == 3:
            return qkv
        widths = (self._config.hidden_size, self._config.kv_size, self._config.kv_size)
        outputs = [(F32, (1, self._tokens, width)) for width in widths]
        return self._builder.multi_op(
            "Split", [qkv[0], self._builder.ints(*widths)], outputs, attributes={"axis": 2}
        )

    def _heads(self, x: ir.Value, heads: int) -> ir.Value:
        """(1, T, heads * D) to (1, heads, T, D)."""
        b, dim = self._builder, self._config.head_dim
        x = b.op("Reshape", [x, b.ints(1, -1, heads, dim)], (1, self._tokens, heads, dim))
        return b.op("Transpose", [x], (1, heads, self._tokens, dim), attributes={"perm": [0, 2, 1, 3]})

    def _rotate(self, x: ir.Value, heads: int) -> ir.Value:
        b = self._builder
        inputs = [x, b.weight(self._model.cos), b.weight(self._model.sin), self._positions]
        shape = (1, heads, self._tokens, self._config.head_dim)
        return b.op("RotaryEmbedding", inputs, shape, attributes={"interleaved": 0})

    def _scores(self, query: ir.Value, keys: ir.Value, width: Dim, mask: ir.Value | None) -> ir.Value:
        """(Hkv, G * T, width) of queries over keys (Hkv, width, D)."""
        b, rows = self._builder, self._query_rows
        kv_heads, dim = self._config.num_key_value_heads, self._config.head_dim
        turned = b.op("Transpose", [keys], (kv_heads, dim, width), attributes={"perm": [0, 2, 1]})
        raw = b.op("MatMul", [query, turned], (kv_heads, rows, width))
        return raw if mask is None else b.op("Add", [raw, mask], (kv_heads, rows, width))

    def _attend_new(self, query: ir.Value, key: ir.Value, value: ir.Value) -> ir.Value:
        """(Hkv, G * T, D) over the tokens of the call alone."""
        b, rows = self._builder, self._query_rows
        kv_heads, dim = self._config.num_key_value_heads, self._config.head_dim
        scores = self._scores(query, key, self._tokens, self._new_mask)
        weights = b.op("Softmax", [scores], (kv_heads, rows, self._tokens), attributes={"axis": -1})
        return b.op("MatMul", [weights, value], (kv_heads, rows, dim))

    def _attend(
        self, layer: int, signature: GraphSignature, query: ir.Value, key: ir.Value, value: ir.Value
    ) -> ir.Value:
        """(Hkv, G * T, D) from queries and new rows, over the past and the new tokens."""
        b, tokens, rows = self._builder, self._tokens, self._query_rows
        kv_heads, dim, slots = self._config.num_key_value_heads, self._config.head_dim, signature.cache.cache_len

        past = [
            b.op("Squeeze", [b.inputs[past_name(layer, kind)], b.ints(0)], (kv_heads, slots, dim))
            for kind in ("key", "value")
        ]
        seen: Dim = slots + tokens if isinstance(tokens, int) else f"{slots}+T"
        parts = [
            self._scores(query, past[0], slots, self._past_mask),
            self._scores(query, key, tokens, self._new_mask),
        ]
        joined = b.op("Concat", parts, (kv_heads, rows, seen), attributes={"axis": 2})
        weights = b.op("Softmax", [joined], (kv_heads, rows, seen), attributes={"axis": -1})
        end = b.ints(np.iinfo(np.int64).max)
        on_past = b.op("Slice", [weights, b.ints(0), b.ints(slots), b.ints(2)], (kv_heads, rows, slots))
        on_new = b.op("Slice", [weights, b.ints(slots), end, b.ints(2)], (kv_heads, rows, tokens))
        shape = (kv_heads, rows, dim)
        return b.op(
            "Add", [b.op("MatMul", [on_past, past[1]], shape), b.op("MatMul", [on_new, value], shape)], shape
        )

    def add_norm(self, x: ir.Value, residual: ir.Value, gain: ir.ExternalTensor) -> tuple[ir.Value, ir.Value]:
        """RMSNorm of x + residual, and that sum."""
        b, shape = self._builder, (1, self._tokens, self._config.hidden_size)
        total = b.op("Add", [x, residual], shape)
        return rms_norm(b, total, gain, self._config), total
