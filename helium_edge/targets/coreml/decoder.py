"""One function, built straight from config and packed weights; read this to see what is exported.

Everything is float16, with a static number of tokens, and a static cache or none. Masks add -3e4, not -1e9, which
float16 makes -infinity. Nothing is divided. The residual stream itself must stay below 65504, which nothing in a
graph can change.

Shapes: T tokens of this call, S cache slots, H / Hkv query / key-value heads, G = H / Hkv, D head_dim,
C hidden_size, K / N input and output channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from helium_edge.config import ModelConfig
from helium_edge.mlpackage.builder import FunctionBuilder, Value
from helium_edge.mlpackage.operators import Table, concat, gather, reshape, slice_axis
from helium_edge.mlpackage.weights_file import WeightsFile
from helium_edge.model.decoder import causal_mask
from helium_edge.model.kv_cache import SIDES
from helium_edge.model.rope import rope_tables
from helium_edge.signature import (
    INPUT_IDS,
    LAST_INDEX,
    LOGITS,
    PAST_LENGTH,
    GraphSignature,
    TextSignature,
    new_name,
    past_name,
)
from helium_edge.targets.coreml.common import activation, last_token, rms_norm
from helium_edge.targets.coreml.packed import PackedMatrix, PackedModel

MASKED = -3e4
"""Added to the score of a slot that must not be seen: e**-3e4 is 0, and scores of -3e4 still fit in float16."""

Rope = tuple[Value | Table, Value | Table]
"""cos and sin at the positions of the tokens, each (T, D/2)."""


def build_function(
    config: ModelConfig,
    model: PackedModel,
    signature: GraphSignature | TextSignature,
    weights: WeightsFile,
    ios: int,
) -> Any:
    """Build one method; cheap, since it refers to the weights and holds none.

    Args:
        config: The model.
        model: Its packed weights.
        signature: Inputs, outputs and static shapes; that of a classifier or encoder has no cache.
        weights: The file of the weights, where tables of the function go too.
        ios: Deployment target.

    Returns:
        The function, a protobuf message.
    """
    b = FunctionBuilder(signature, weights, ios)
    if isinstance(signature, TextSignature):
        _text(b, config, model, signature)
    else:
        _decoder(b, config, model, signature)
    return b.build()


def _decoder(b: FunctionBuilder, config: ModelConfig, model: PackedModel, signature: GraphSignature) -> None:
    """Logits and new rows, after what is in the cache."""
    tokens, slots = int(signature.token_dim), signature.cache.cache_len
    positions = past_length = b.inputs[PAST_LENGTH]
    if tokens > 1:
        positions = b.op("add", (tokens,), "int32", x=list(range(tokens)), y=past_length)
    cos, sin = (gather(b, table, positions, slots) for table in _rope_tables(config, slots))
    shape = (1, slots)
    in_past = b.op("less", shape, "bool", x=np.arange(slots, dtype=np.int32)[None], y=past_length)
    seen, masked = np.zeros(shape, np.float16), np.full(shape, MASKED, np.float16)
    on_past = b.op("select", shape, cond=in_past, a=seen, b=masked)
    x = _layers(b, config, model, (cos, sin), on_past)
    b.scope("head")
    if signature.has_last_index:
        x = gather(b, x, b.inputs[LAST_INDEX], tokens)
    logits = _linear(b, rms_norm(b, x, model.norm, config.rms_norm_eps), model.head)
    b.op("expand_dims", (1, *logits.shape), output=LOGITS, x=logits, axes=[0])


def _text(b: FunctionBuilder, config: ModelConfig, model: PackedModel, signature: TextSignature) -> None:
    """One pass over a whole text."""
    cos, sin = _rope_tables(config, signature.tokens)
    x = _layers(b, config, model, (cos, sin), None)
    b.scope("head")
    (output,) = signature.outputs()
    of_text = signature.task.pools
    x = rms_norm(b, last_token(b, x, signature) if of_text else x, model.norm, config.rms_norm_eps)
    if model.head:
        x = _linear(b, x, model.head, output.name if of_text else None)
    if not of_text:
        b.op("expand_dims", (1, *x.shape), output=output.name, x=x, axes=[0])


def _rope_tables(config: ModelConfig, length: int) -> list[Table]:
    """Cos and sin of the first positions, each (length, D/2)."""
    tables = rope_tables(config.rope_theta, config.head_dim, length)
    return [table.to(torch.float16).numpy() for table in tables]


def _layers(
    b: FunctionBuilder, config: ModelConfig, model: PackedModel, rope: Rope, on_past: Value | None
) -> Value:
    """Embedding and layers.

    Args:
        b: Where they are appended.
        config: The model.
        model: Its weights.
        rope: See `Rope`.
        on_past: Additive mask over the cache, (1, S); None without a cache.

    Returns:
        Hidden states (T, C) before the final norm.
    """
    b.scope("embedding")
    (_, tokens), inner = b.inputs[INPUT_IDS].shape, config.intermediate_size
    ids = reshape(b, b.inputs[INPUT_IDS], (tokens,))
    x = gather(b, _weight(b, model.embedding), ids, config.vocab_size)
    for index, layer in enumerate(model.layers):
        b.scope(f"layers.{index}.attention")
        qkv = _linear(b, rms_norm(b, x, layer.norm1, config.rms_norm_eps), layer.qkv)
        attended = _attention(b, config, index, qkv, rope, on_past)
        x = b.op("add", x.shape, x=x, y=_linear(b, attended, layer.o))
        b.scope(f"layers.{index}.mlp")
        gate_up = _linear(b, rms_norm(b, x, layer.norm2, config.rms_norm_eps), layer.gate_up)
        gate, up = slice_axis(b, gate_up, 1, 0, inner), slice_axis(b, gate_up, 1, inner, 2 * inner)
        product = b.op("mul", gate.shape, x=activation(b, gate, config.hidden_act), y=up)
        x = b.op("add", x.shape, x=x, y=_linear(b, product, layer.down))
    return x


def _attention(
    b: FunctionBuilder, config: ModelConfig, layer: int, qkv: Value, rope: Rope, on_past: Value | None
) -> Value:
    """Attention over the past and the new tokens, whose rows are outputs; (T, (H + 2 Hkv) D) -> (T, H D).

    Only scores are concatenated, never the caches. Query head h reads key-value head h // G, so heads fold into
    (Hkv, G T, D) without a copy of keys.
    """
    tokens, dim = qkv.shape[0], config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    rows, every = heads // kv_heads * tokens, heads + 2 * kv_heads
    names = [None if on_past is None else new_name(layer, side) for side in SIDES]
    apart = b.op("transpose", (every, tokens, dim), x=reshape(b, qkv, (tokens, every, dim)), perm=[1, 0, 2])
    # Queries and keys turn alike: one rotation for both.
    turned = _rotate(b, slice_axis(b, apart, 0, 0, heads + kv_heads), rope)
    query = slice_axis(b, turned, 0, 0, heads)
    key = slice_axis(b, turned, 0, heads, heads + kv_heads, names[0])
    value = slice_axis(b, apart, 0, heads + kv_heads, every, names[1])
    query = reshape(b, query, (kv_heads, rows, dim))
    query = b.op("mul", query.shape, x=query, y=np.float16(1.0 / math.sqrt(dim)))

    def product(x: Value, y: Value, width: int, *, transposed: bool) -> Value:
        return b.op("matmul", (kv_heads, rows, width), x=x, y=y, transpose_x=False, transpose_y=transposed)

    on_new = product(query, key, tokens, transposed=True)
    if tokens > 1:
        causal = causal_mask(config, tokens).clamp(min=MASKED).to(torch.float16).numpy()
        on_new = b.op("add", on_new.shape, x=on_new, y=causal)
    if on_past is None:
        out = product(b.op("softmax", on_new.shape, x=on_new, axis=-1), value, dim, transposed=False)
    else:
        past_key, past_value = (b.inputs[past_name(layer, side)] for side in SIDES)
        slots = past_key.shape[1]
        scores = product(query, past_key, slots, transposed=True)
        scores = concat(b, [b.op("add", scores.shape, x=scores, y=on_past), on_new])
        weights = b.op("softmax", scores.shape, x=scores, axis=-1)
        of_past = product(slice_axis(b, weights, 2, 0, slots), past_value, dim, transposed=False)
        of_new = product(slice_axis(b, weights, 2, slots, slots + tokens), value, dim, transposed=False)
        out = b.op("add", of_past.shape, x=of_past, y=of_new)
    out = b.op("transpose", (tokens, heads, dim), x=reshape(b, out, (heads, tokens, dim)), perm=[1, 0, 2])
    return reshape(b, out, (tokens, heads * dim))


def _rotate(b: FunctionBuilder, x: Value, rope: Rope) -> Value:
    """Half-split RoPE of heads, (H, T, D) -> (H, T, D)."""
    half = x.shape[2] // 2
    first, second = slice_axis(b, x, 2, 0, half), slice_axis(b, x, 2, half, 2 * half)
    shape = first.shape

    def turn(op_type: str, one: Value, other: Value) -> Value:
        one, other = (b.op("mul", shape, x=part, y=table) for part, table in zip((one, other), rope, strict=True))
        return b.op(op_type, shape, x=one, y=other)

    return concat(b, [turn("sub", first, second), turn("add", second, first)])


def _linear(b: FunctionBuilder, x: Value, matrices: Sequence[PackedMatrix], output: str | None = None) -> Value:
    """(R, K) -> (R, N1 + N2 + ...): projections of one input side by side, with their biases."""
    results = []
    for matrix in matrices:
        assert matrix.bias is not None
        shape, bias = (x.shape[0], matrix.weight.shape[0]), b.stored(matrix.bias, "bias")
        results.append(b.op("linear", shape, output=output, x=x, weight=_weight(b, matrix), bias=bias))
    return concat(b, results)


def _weight(b: FunctionBuilder, matrix: PackedMatrix) -> Value:
    """(N, K)."""
    if matrix.scales is None:
        return b.stored(matrix.weight, "weight")
    return b.dequantized("weight", matrix.weight, matrix.scales, matrix.points)
