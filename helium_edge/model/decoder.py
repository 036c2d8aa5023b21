"""The Helium decoder in plain torch: static shapes, external cache in, new cache rows out (`append`).

`HeliumDecoder` computes what the exported graphs compute, from the same weights in the same order (half-split
RoPE), and is therefore the yardstick of parity level L1. `DecoderStack` is its body, which targets export with
parts of their own. It knows nothing of files, quantization or runtimes.

The operators are chosen so that a backend with few of them takes the whole stack: bmm on three axes, views and
slices; no gather, no mean, no squeeze. Q, K and V, and gate and up, are one projection each.

Shapes: T tokens of this call, S cache slots, H / Hkv query / key-value heads, G = H / Hkv, D head_dim,
C hidden_size, I intermediate_size, V vocabulary.

Source: transformers modeling_helium.py (HeliumDecoderLayer, HeliumAttention).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the field's spelling
from torch import Tensor

from helium_edge.config import ModelConfig
from helium_edge.model.parts import CodedRows, DenseParts, Parts, WeightSource
from helium_edge.model.rope import apply_rope, rope_tables
from helium_edge.model.weights import FINAL_NORM, head_name, layer_name

__all__ = ["ACTIVATIONS", "MASKED", "DecoderStack", "HeliumDecoder", "Rope", "WeightSource", "causal_mask"]

MASKED = -1e9
"""Added to the score of a slot that must not be seen; finite, so that no row can become NaN."""

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}

Rope = tuple[Tensor, Tensor]
"""cos and sin at the positions of the tokens, each (T, D/2)."""


class HeliumDecoder(torch.nn.Module):
    """All layers and the head as one function of tokens, position and cache.

    Args:
        config: The model.
        weights: Source of float32 weights; each is read once, here.
        cache_len: S; also the length of the RoPE tables.
        parts: Makes the modules that carry the weights; float32 from `weights` by default.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self, config: ModelConfig, weights: WeightSource, cache_len: int, parts: Parts | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.cache_len = cache_len
        cos, sin = rope_tables(config.rope_theta, config.head_dim, cache_len)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        self.stack = DecoderStack(config, parts or DenseParts(config, weights))

    def forward(
        self, input_ids: Tensor, past_length: Tensor, past: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Run T tokens after `past_length` cached ones; never writes into `past`.

        Args:
            input_ids: (1, T) int64.
            past_length: (1,) integer, tokens in the cache, which is the position of the first new token.
            past: key and value of each layer in turn, each (Hkv, S, D) float32; slots >= past_length are ignored.

        Returns:
            Logits (1, T, V) float32, and per layer the new key and value rows, each (Hkv, T, D).
        """
        tokens = input_ids.shape[1]
        positions = past_length + torch.arange(tokens)
        rope = self.cos.index_select(0, positions), self.sin.index_select(0, positions)
        on_past = torch.where(torch.arange(self.cache_len) < past_length, 0.0, MASKED)[None]
        masks = on_past, causal_mask(self.config, tokens)
        x, new = self.stack(input_ids[0], rope, masks, past)
        return self.stack.logits(x)[None], new


def causal_mask(config: ModelConfig, tokens: int) -> Tensor:
    """Additive mask (G * T, T) of the new tokens over themselves, query heads of one key-value head stacked."""
    rows = torch.arange(tokens)
    mask = torch.where(rows[None, :] <= rows[:, None], 0.0, MASKED)
    return mask.repeat(config.num_attention_heads // config.num_key_value_heads, 1)


class DecoderStack(torch.nn.Module):
    """Embedding, layers, final norm and head, without positions: RoPE rows and masks come from outside.

    Args:
        config: The model.
        parts: Makes the modules that carry the weights.
        activation: The MLP's, for a backend that needs it in other operators; by default the config's.
    """

    def __init__(self, config: ModelConfig, parts: Parts, activation: Activation | None = None) -> None:
        super().__init__()
        self.config = config
        self.embedding = parts.embedding()
        self.layers = torch.nn.ModuleList(
            DecoderLayer(config, parts, layer, activation or ACTIVATIONS[config.hidden_act])
            for layer in range(config.num_hidden_layers)
        )
        self.norm = parts.norm(FINAL_NORM)
        head = head_name(config)
        self.head = parts.linear([head]) if head is not None else None

    def forward(
        self, token_ids: Tensor, rope: Rope, masks: tuple[Tensor, Tensor], past: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the layers after cached tokens.

        Args:
            token_ids: (T,) int64.
            rope: See `Rope`.
            masks: Additive masks over the past, (1, S), and over the new tokens, (G * T, T).
            past: key and value of each layer in turn, each (Hkv, S, D); int8 where parts make `CodedRows`.

        Returns:
            Hidden states (T, C) before the final norm, and the new key and value rows, each (Hkv, T, D), of the
            type of `past`.
        """
        x = self.embedding(token_ids)
        new: list[Tensor] = []
        for layer, block in enumerate(self.layers):
            x, key, value = block(x, rope, masks, (past[2 * layer], past[2 * layer + 1]))
            new += [key, value]
        return x, new

    def encode(self, token_ids: Tensor, rope: Rope, causal: Tensor) -> Tensor:
        """Run the layers over a text of its own, without a cache.

        Args:
            token_ids: (T,) int64.
            rope: See `Rope`; positions 0 to T - 1.
            causal: Additive mask over the tokens, (G * T, T).

        Returns:
            Hidden states (T, C) before the final norm.
        """
        x: Tensor = self.embedding(token_ids)
        for block in self.layers:
            x, _, _ = block(x, rope, (None, causal), None)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """Final norm, and the head if there is one: hidden states (R, C) -> (R, V), (R, L) or (R, C)."""
        normed: Tensor = self.norm(x)
        if self.head is None:
            return normed
        result: Tensor = self.head(normed)
        return result


class DecoderLayer(torch.nn.Module):
    """Pre-norm attention and gated MLP with residual additions."""

    def __init__(self, config: ModelConfig, parts: Parts, layer: int, activation: Activation) -> None:
        super().__init__()
        self.config = config
        self.activation = activation
        self.norm1 = parts.norm(layer_name(layer, "input_layernorm.weight"))
        self.qkv = parts.linear([layer_name(layer, f"self_attn.{kind}_proj.weight") for kind in "qkv"])
        self.key_rows = parts.cache_rows(layer, "key")
        self.value_rows = parts.cache_rows(layer, "value")
        self.query_rows = parts.query_rows(layer)
        self.attended_rows = parts.attended_rows(layer)
        self.o = parts.linear([layer_name(layer, "self_attn.o_proj.weight")])
        self.norm2 = parts.norm(layer_name(layer, "post_attention_layernorm.weight"))
        self.gate_up = parts.linear([layer_name(layer, f"mlp.{kind}_proj.weight") for kind in ("gate", "up")])
        self.down = parts.linear([layer_name(layer, "mlp.down_proj.weight")])

    def forward(
        self, x: Tensor, rope: Rope, masks: tuple[Tensor | None, Tensor], past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one layer; arguments as in `DecoderStack.forward`, `past` of this layer, None without a cache.

        Returns:
            The layer's output (T, C) and its new key and value rows, each (Hkv, T, D).
        """
        mixed, key, value = self.mix(self.norm1(x), rope, masks, past)
        x = x + self.o(mixed)
        x = x + self.down(self.gated(self.norm2(x)))
        return x, key, value

    def mix(
        self, normed: Tensor, rope: Rope, masks: tuple[Tensor | None, Tensor], past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention without its output projection, of inputs (T, C) after the first norm; arguments as above.

        Returns:
            What the output projection reads, (T, H * D), and the new key and value rows, each (Hkv, T, D).
        """
        config = self.config
        heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        qkv = self.qkv(normed).view(normed.shape[0], heads + 2 * kv_heads, dim).transpose(0, 1)
        # Queries and keys turn alike: one rotation for both.
        turned, value = apply_rope(qkv[: heads + kv_heads], *rope), qkv[heads + kv_heads :]
        query, key = turned[:heads], turned[heads:]
        if self.key_rows is not None and self.value_rows is not None:
            # Attention reads new rows as it will read them from the cache: any chunking gives the same numbers.
            key, value = self.key_rows(key), self.value_rows(value)
        if self.query_rows is not None:
            query = self.query_rows(query)
        mixed = self._attend(query, (key, value), past, masks)
        return mixed if self.attended_rows is None else self.attended_rows(mixed), key, value

    def gated(self, normed: Tensor) -> Tensor:
        """The MLP without its last projection: (T, C) after the second norm to what that reads, (T, I)."""
        gate_up: Tensor = self.gate_up(normed)
        inner = self.config.intermediate_size
        return self.activation(gate_up[:, :inner]) * gate_up[:, inner:]

    def _attend(
        self,
        query: Tensor,
        new: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor] | None,
        masks: tuple[Tensor | None, Tensor],
    ) -> Tensor:
        """Attention over the past and the new tokens; only scores are concatenated, never the caches.

        Query head h reads key-value head h // G, so heads fold into (Hkv, G * T, D) without a copy of keys.
        """
        tokens, kv_heads, dim = query.shape[1], self.config.num_key_value_heads, self.config.head_dim
        keys, values = self.key_rows, self.value_rows
        if isinstance(keys, CodedRows):
            query = query * keys.factor
        query = query.reshape(kv_heads, -1, dim) * (1.0 / math.sqrt(dim))  # CoreML widens a division to float32
        on_new = torch.bmm(query, _columns(keys, new[0])) + masks[1]
        if past is None or masks[0] is None:
            out = torch.bmm(torch.softmax(on_new, dim=-1), _numbers(values, new[1]))
        else:
            on_past = torch.bmm(query, _columns(keys, past[0])) + masks[0]
            weights = torch.softmax(torch.cat((on_past, on_new), dim=-1), dim=-1)
            slots = past[0].shape[1]
            out = torch.bmm(weights[..., :slots], _numbers(values, past[1]))
            out = out + torch.bmm(weights[..., slots:], _numbers(values, new[1]))
        out = out.view(-1, tokens, dim).transpose(0, 1).reshape(tokens, -1)
        return out * values.factor if isinstance(values, CodedRows) else out


def _columns(rows: torch.nn.Module | None, keys: Tensor) -> Tensor:
    """Keys (Hkv, S, D) of a cache as float32 columns, (Hkv, D, S)."""
    return rows.read_columns(keys) if isinstance(rows, CodedRows) else keys.transpose(1, 2)


def _numbers(rows: torch.nn.Module | None, values: Tensor) -> Tensor:
    """Values (Hkv, S, D) of a cache as float32."""
    return rows.read(values) if isinstance(rows, CodedRows) else values
