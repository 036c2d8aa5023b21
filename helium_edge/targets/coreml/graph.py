"""A model as methods of a CoreML program: float16, a static number of tokens, a static cache or none.

Masks add -3e4, not -1e9, which float16 makes -infinity. The residual stream itself must stay below 65504; nothing
in a graph can change that.

Shapes: T tokens, S cache slots, D head_dim, V vocabulary, C hidden_size, L labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from helium_edge.model.decoder import DecoderStack, causal_mask
from helium_edge.model.head import last_token
from helium_edge.model.rope import rope_tables
from helium_edge.signature import GraphSignature, HeadSignature

MASKED = -3e4
"""Added to the score of a slot that must not be seen: e**-3e4 is 0, and scores of -3e4 still fit in float16."""

_DTYPES = {"int64": torch.int64, "float16": torch.float16}


class CoremlMethod(torch.nn.Module):
    """One method over a stack that all methods share.

    Args:
        stack: The decoder, with its weights in float16.
        signature: Inputs, outputs and shapes; T is a number, the cache is float16 and not batched.
    """

    cos: Tensor
    sin: Tensor
    rows: Tensor
    slots: Tensor
    causal: Tensor
    seen: Tensor
    masked: Tensor

    def __init__(self, stack: DecoderStack, signature: GraphSignature) -> None:
        super().__init__()
        config, tokens, slots = stack.config, int(signature.token_dim), signature.cache.cache_len
        self.signature = signature
        self.stack = stack
        cos, sin = rope_tables(config.rope_theta, config.head_dim, slots)
        self.register_buffer("cos", cos.to(torch.float16))
        self.register_buffer("sin", sin.to(torch.float16))
        self.register_buffer("rows", torch.arange(tokens))
        self.register_buffer("slots", torch.arange(slots)[None])
        self.register_buffer("causal", causal_mask(config, tokens).clamp(min=MASKED).to(torch.float16))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.float16))
        self.register_buffer("masked", torch.full((1,), MASKED, dtype=torch.float16))

    def forward(self, input_ids: Tensor, past_length: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Inputs and outputs in the order of the signature.

        Args:
            input_ids: (1, T) int64.
            past_length: (1,) int64.
            rest: `last_index` (1,) int64 where the signature has it, then key and value of each layer, each
                (Hkv, S, D) float16.

        Returns:
            Logits (1, 1 or T, V) float32, then the new key and value rows of each layer, each (Hkv, T, D) float16.
        """
        positions = self.rows + past_length
        rope = self.cos.index_select(0, positions), self.sin.index_select(0, positions)
        on_past = torch.where(self.slots < past_length, self.seen, self.masked)
        past = rest[1:] if self.signature.has_last_index else rest
        x, new = self.stack(input_ids.view(-1), rope, (on_past, self.causal), past)
        if self.signature.has_last_index:
            x = x.index_select(0, rest[0])
        logits = self.stack.logits(x)
        # CoreML ends in float16; ExecuTorch widens as it copies the result out.
        return logits[None].to(torch.float32), *new

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Zeros of every input's shape and type."""
        return tuple(
            torch.zeros([int(dim) for dim in spec.shape], dtype=_DTYPES[spec.dtype])
            for spec in self.signature.inputs()
        )


class CoremlHead(torch.nn.Module):
    """The one method of a model that is no language model.

    Args:
        stack: The model, with its weights in float16.
        signature: Its input and output.
    """

    cos: Tensor
    sin: Tensor
    causal: Tensor
    positions: Tensor

    def __init__(self, stack: DecoderStack, signature: HeadSignature) -> None:
        super().__init__()
        config, tokens = stack.config, signature.tokens
        self.signature = signature
        self.stack = stack
        cos, sin = rope_tables(config.rope_theta, config.head_dim, tokens)
        self.register_buffer("cos", cos.to(torch.float16))
        self.register_buffer("sin", sin.to(torch.float16))
        self.register_buffer("causal", causal_mask(config, tokens).clamp(min=MASKED).to(torch.float16))
        self.register_buffer("positions", torch.arange(tokens))

    def forward(self, input_ids: Tensor) -> Tensor:
        """(1, T) int64 -> (1, L), (1, T, L) or (1, T, C) float32."""
        x = self.stack.encode(input_ids.view(-1), (self.cos, self.sin), self.causal)
        if self.signature.head == "sequence_classification":
            last = last_token(input_ids, self.positions, self.signature.pad_token_id)
            return self.stack.logits(x.index_select(0, last)).to(torch.float32)
        return self.stack.logits(x)[None].to(torch.float32)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Zeros of the input's shape and type."""
        return (torch.zeros((1, self.signature.tokens), dtype=torch.int64),)
