"""The decoder as an XNNPACK graph, for any number of tokens and any cache: layers, final norm and head.

It computes what `model/decoder.py` computes, in that order, with these differences, none of which changes a
number: an axis of one is moved by a reshape, keys are multiplied as they lie (`TRANSPOSE_B`), and both halves of a
rotation are one product with a table of both. Attention of few tokens over a long cache is done in pieces (ADR
14): each is copied (and converted, if it is not float32) and used up before the next one is read, since XNNPACK
packs the second operand of a product at every call, and reads memory slower than the processor's cache.

    scores = q K'      ->  [q K0', q K1', ...]             K0, K1, ...: copies of the slots of each piece
    out    = w V       ->  w0 V0 + w1 V1 + ...

Shapes: T tokens, S cache slots, H / Hkv query / key-value heads, G = H / Hkv, D head_dim, C hidden_size, V
    vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from helium_edge.model.decoder import MASKED, causal_mask
from helium_edge.model.kv_cache import HIGHEST, LOWEST
from helium_edge.model.weights import FINAL_NORM, head_name, layer_name
from helium_edge.pte import xnnpack_schema as schema
from helium_edge.pte.builder import MethodBuilder
from helium_edge.targets.xnnpack.graph import GraphBuilder
from helium_edge.targets.xnnpack.weights import Constant, Weights

PIECE_BYTES = 5 << 18
"""Most bytes of the keys, or of the values, of a piece as float32. Measured: benchmarks/pte_attention.py."""

MOST_ROWS = 32
"""Query rows of a key-value head up to which pieces pay: more of them make use of what is packed (ADR 14)."""


class Decoder:
    """The graph of one method.

    Args:
        method: Calls the graph; constants become values of it.
        weights: Of the program.
        tokens: T.
        half_cache: The cache is float16.
    """

    def __init__(self, method: MethodBuilder, weights: Weights, tokens: int, *, half_cache: bool = False) -> None:
        self.graph = GraphBuilder()
        self._half_cache = half_cache
        self.config = weights.config
        self._method = method
        self._weights = weights
        self._tokens = tokens
        self._known: dict[int, int] = {}
        self._rope: tuple[int, int] | None = None
        self._past_mask: int | None = None

    def constant(self, constant: Constant) -> int:
        """A constant of the program as a value of the graph."""
        if constant.index not in self._known:
            argument = self._method.constant(constant.index, constant.dtype, constant.shape)
            self._known[constant.index] = self.graph.input(argument, constant.shape)
        return self._known[constant.index]

    def number(self, value: float) -> int:
        """A number as a value of the graph, of one element."""
        return self.constant(self._weights.made(f"number {value!r}", torch.tensor([value])))

    def set_rope(self, cos: int, sin: int) -> None:
        """Take cos and sin at the positions of the tokens, (T, D/2) each; both halves of a head turn by them."""
        graph = self.graph
        minus = graph.multiply(sin, self.number(-1.0))
        self._rope = graph.concatenate([cos, cos], 1), graph.concatenate([minus, sin], 1)

    def set_past_mask(self, hidden: int) -> None:
        """Take which slots must not be seen, (1, S): 1 there, else 0."""
        self._past_mask = self.graph.multiply(hidden, self.number(MASKED))

    def norm(self, x: int, name: str) -> int:
        """Root-mean-square norm of (T, C), in the order of `model.parts.RmsNorm`."""
        graph = self.graph
        mean = graph.linear(graph.multiply(x, x), self._weights.average())
        root = graph.unary(schema.XNNReciprocalSquareRoot, graph.add(mean, self.number(self.config.rms_norm_eps)))
        return graph.multiply(graph.multiply(x, root), self.constant(self._weights.vector(name)))

    def linear(self, x: int, names: Sequence[str]) -> int:
        """Projections of one input side by side: (T, K) -> (T, N1 + N2 + ...)."""
        graph = self.graph
        parts = [
            graph.linear(x if matrix.scales is None else graph.quantize_rows(x), matrix)
            for matrix in self._weights.products(names)
        ]
        return graph.concatenate(parts, 1)

    def layer(self, x: int, index: int, past: tuple[int, int] | None) -> tuple[int, int, int]:
        """One layer.

        Args:
            x: (T, C).
            index: Which.
            past: Keys and values in the cache, (Hkv, S, D) each, of the type of the cache; None without one.

        Returns:
            Its output (T, C), and the new rows of the cache, keys and values, (Hkv, T, D) each.
        """
        graph, config, tokens = self.graph, self.config, self._tokens
        heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        normed = self.norm(x, layer_name(index, "input_layernorm.weight"))
        qkv = self.linear(normed, [layer_name(index, f"self_attn.{kind}_proj.weight") for kind in "qkv"])
        qkv = self._by_head(qkv, heads + 2 * kv_heads)
        turned = self._rotate(graph.slice(qkv, 0, 0, heads + kv_heads))
        query, key = graph.slice(turned, 0, 0, heads), graph.slice(turned, 0, heads, heads + kv_heads)
        value = graph.slice(qkv, 0, heads + kv_heads, heads + 2 * kv_heads)
        key_scales, value_scales = (self._weights.cache_scales(index, side) for side in ("key", "value"))
        if key_scales is not None and value_scales is not None:
            key, value = (
                graph.to_codes(graph.multiply(rows, self.constant(inverse)))
                for rows, (inverse, _) in ((key, key_scales), (value, value_scales))
            )
            query = graph.multiply(query, self.constant(key_scales[1]))
        elif self._half_cache:
            key, value = graph.to_half(key), graph.to_half(value)
        out = self._attend(graph.reshape(query, [kv_heads, heads // kv_heads * tokens, dim]), (key, value), past)
        out = self._by_token(out)
        if value_scales is not None:
            out = graph.multiply(out, self.constant(value_scales[1]))
        x = graph.add(x, self.linear(out, [layer_name(index, "self_attn.o_proj.weight")]))
        return graph.add(x, self._mlp(x, index)), key, value

    def _by_head(self, x: int, heads: int) -> int:
        """(T, H * D) to (H, T, D); a single token is only reshaped."""
        graph, dim = self.graph, self.config.head_dim
        if self._tokens == 1:
            return graph.reshape(x, [heads, 1, dim])
        return graph.transpose(graph.reshape(x, [self._tokens, heads, dim]), [1, 0, 2])

    def _by_token(self, x: int) -> int:
        """(Hkv, G * T, D) to (T, H * D), likewise."""
        graph, width = self.graph, self.config.num_attention_heads * self.config.head_dim
        if self._tokens > 1:
            heads = graph.reshape(x, [self.config.num_attention_heads, self._tokens, self.config.head_dim])
            x = graph.transpose(heads, [1, 0, 2])
        return graph.reshape(x, [self._tokens, width])

    def _rotate(self, x: int) -> int:
        """RoPE of (H, T, D), half-split: (a, b) -> (a cos - b sin, b cos + a sin)."""
        graph, half = self.graph, self.config.head_dim // 2
        assert self._rope is not None
        cos, sin = self._rope
        swapped = graph.concatenate([graph.slice(x, 2, half, 2 * half), graph.slice(x, 2, 0, half)], 2)
        return graph.add(graph.multiply(x, cos), graph.multiply(swapped, sin))

    def _attend(self, query: int, new: tuple[int, int], past: tuple[int, int] | None) -> int:
        """Attention of (Hkv, G * T, D) over the past and the new tokens; only scores are joined, never caches."""
        graph = self.graph
        query = graph.multiply(query, self.number(1.0 / math.sqrt(self.config.head_dim)))
        on_new = graph.matmul(query, self._read(new[0]), transpose=True)
        if self._tokens > 1:  # a single token sees itself
            mask = self._weights.made(f"causal {self._tokens}", causal_mask(self.config, self._tokens))
            on_new = graph.add(on_new, self.constant(mask))
        if past is None:
            return graph.matmul(graph.unary(schema.XNNSoftmax, on_new), self._read(new[1]))
        assert self._past_mask is not None
        keys, values = past
        places = list(pairwise(self._bounds(keys, graph.shape(query)[1])))
        scores = [graph.matmul(query, self._read(self._piece(keys, place)), transpose=True) for place in places]
        on_past = graph.add(graph.concatenate(scores, 2), self._past_mask)
        weights = graph.unary(schema.XNNSoftmax, graph.concatenate([on_past, on_new], 2))
        slots, total = graph.shape(keys)[1], None
        for start, end in places:
            # Weights are read in their order, so that a piece is used up before the next one is read.
            part = graph.matmul(graph.slice(weights, 2, start, end), self._read(self._piece(values, (start, end))))
            total = part if total is None else graph.add(total, part)
        last = graph.matmul(graph.slice(weights, 2, slots, slots + self._tokens), self._read(new[1]))
        return last if total is None else graph.add(total, last)

    def _bounds(self, cache: int, rows: int) -> list[int]:
        """Where each piece of a cache starts, and where the last one ends."""
        kv_heads, slots, dim = self.graph.shape(cache)
        most = max(1, PIECE_BYTES // (4 * kv_heads * dim)) if rows <= MOST_ROWS else slots
        return [*range(0, slots, most), slots]

    def _piece(self, cache: int, place: tuple[int, int]) -> int:
        return self.graph.slice(cache, 1, *place)

    def _read(self, rows: int) -> int:
        """Rows of a cache as float32.

        The clamp changes nothing. Where a product takes what a conversion from int8 gives, XNNPACK rewrites both
        and then orders all nodes anew, every layer's cache converted before the first is used: 2.3 GB more at 24
        layers and 2048 slots of Helium 2 B.
        """
        graph = self.graph
        if self._half_cache:
            return graph.widen(rows)
        return graph.clamp(graph.widen(rows), LOWEST, HIGHEST) if self._weights.scales is not None else rows

    def _mlp(self, x: int, index: int) -> int:
        graph, inner = self.graph, self.config.intermediate_size
        normed = self.norm(x, layer_name(index, "post_attention_layernorm.weight"))
        both = self.linear(normed, [layer_name(index, f"mlp.{kind}_proj.weight") for kind in ("gate", "up")])
        gate, up = graph.slice(both, 1, 0, inner), graph.slice(both, 1, inner, 2 * inner)
        active = _ACTIVATIONS[self.config.hidden_act](self, gate)
        return self.linear(graph.multiply(active, up), [layer_name(index, "mlp.down_proj.weight")])

    def chosen_row(self, x: int, chosen: int) -> int:
        """(1, C): the row of (T, C) where `chosen` (1, 1, T) is 1 and not 0.

        By a product, exact since all other terms are 0 * finite: XNNPACK has no indexing.
        """
        graph = self.graph
        rows = graph.matmul(chosen, graph.reshape(x, [1, *graph.shape(x)]))
        return graph.reshape(rows, graph.shape(rows)[1:])

    def logits(self, x: int) -> int:
        """Final norm, and the head if there is one: (R, C) -> (R, V), (R, labels) or (R, C)."""
        normed, head = self.norm(x, FINAL_NORM), head_name(self.config)
        return normed if head is None else self.linear(normed, [head])


def _silu(decoder: Decoder, x: int) -> int:
    return decoder.graph.multiply(x, decoder.graph.unary(schema.XNNSigmoid, x))


def _gelu(decoder: Decoder, x: int) -> int:
    return decoder.graph.unary(schema.XNNGelu, x)


def _gelu_tanh(decoder: Decoder, x: int) -> int:
    """GELU in its tanh approximation, written out: XNNPACK's is the exact one."""
    graph, number = decoder.graph, decoder.number
    cube = graph.multiply(graph.multiply(graph.multiply(x, number(0.044715)), x), x)
    inner = graph.multiply(graph.add(x, cube), number(math.sqrt(2.0 / math.pi)))
    raised = graph.add(graph.unary(schema.XNNTanh, inner), number(1.0))
    return graph.multiply(graph.multiply(x, number(0.5)), raised)


def _relu(decoder: Decoder, x: int) -> int:
    return decoder.graph.clamp(x, 0.0, math.inf)


_ACTIVATIONS: dict[str, Callable[[Decoder, int], int]] = {
    "silu": _silu,
    "gelu": _gelu,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": _relu,
}
