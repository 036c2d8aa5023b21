"""The decoder as one method of a program: a static number of tokens, a static cache, the inputs of the contract.

Around the stack stand the few operators that turn two integers into RoPE rows and masks. They stay outside the
delegate; what they produce is small.

Shapes: T tokens, S cache slots, G query heads of one key-value head, D head_dim, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from helium_edge.config import ModelConfig
from helium_edge.model.decoder import MASKED, DecoderStack, causal_mask
from helium_edge.model.head import last_token
from helium_edge.model.parts import Parts
from helium_edge.model.rope import rope_tables
from helium_edge.signature import GraphSignature, HeadSignature


def build_stack(config: ModelConfig, parts: Parts) -> DecoderStack:
    """The decoder in operators that XNNPACK computes as torch does."""
    return DecoderStack(config, parts, gelu_tanh if config.hidden_act == "gelu_pytorch_tanh" else None)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh approximation, written out: XNNPACK takes `gelu` whole and computes the exact one."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


class Method(Protocol):
    """A module that can be lowered."""

    def eval(self) -> torch.nn.Module:
        """The module, ready to be exported."""
        ...

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Zeros of every input's shape and type."""
        ...


class HeadModule(torch.nn.Module):
    """The one method of a model that is no language model.

    Args:
        stack: The model, with its weights.
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
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        self.register_buffer("causal", causal_mask(config, tokens))
        self.register_buffer("positions", torch.arange(tokens)[None])

    def forward(self, input_ids: Tensor) -> Tensor:
        """(1, T) int64 -> (1, L), (1, T, L) or (1, T, C)."""
        x = self.stack.encode(input_ids.view(-1), (self.cos, self.sin), self.causal)
        if self.signature.head != "sequence_classification":
            rows = self.stack.logits(x)
            return rows.view(1, *rows.shape)
        last = last_token(input_ids, self.positions, self.signature.pad_token_id)
        # A row is chosen by a product, as in `MethodModule`.
        chosen = torch.eq(self.positions, last).to(torch.float32)
        x = torch.bmm(chosen.view(1, 1, -1), x.view(1, *x.shape))
        return self.stack.logits(x.view(1, -1))

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Zeros of the input's shape and type."""
        return (torch.zeros((1, self.signature.tokens), dtype=torch.int64),)


class MethodModule(torch.nn.Module):
    """One method over a stack that all methods share.

    Args:
        stack: The decoder, with its weights.
        signature: Inputs, outputs and shapes; T is a number, the cache is not batched.
    """

    cos: Tensor
    sin: Tensor
    rows: Tensor
    columns: Tensor
    slots: Tensor
    causal: Tensor

    def __init__(self, stack: DecoderStack, signature: GraphSignature) -> None:
        super().__init__()
        config, tokens, slots = stack.config, int(signature.token_dim), signature.cache.cache_len
        self.signature = signature
        self.stack = stack
        cos, sin = rope_tables(config.rope_theta, config.head_dim, slots)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        # Constants of the graph: computed inside, they would be operators of every call.
        self.register_buffer("rows", torch.arange(tokens))
        self.register_buffer("columns", torch.arange(tokens).view(1, 1, tokens))
        self.register_buffer("slots", torch.arange(slots)[None])
        self.register_buffer("causal", causal_mask(config, tokens))

    def forward(self, input_ids: Tensor, past_length: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Inputs and outputs in the order of the signature.

        Args:
            input_ids: (1, T) int64.
            past_length: (1,) int64.
            rest: `last_index` (1,) int64 where the signature has it, then key and value of each layer.

        Returns:
            Logits, then the new key and value rows of each layer.
        """
        positions = self.rows + past_length
        rope = self.cos.index_select(0, positions), self.sin.index_select(0, positions)
        on_past = torch.ge(self.slots, past_length).to(torch.float32) * MASKED
        past = rest[1:] if self.signature.has_last_index else rest
        x, new = self.stack(input_ids.view(-1), rope, (on_past, self.causal), past)
        if self.signature.has_last_index:
            # A row is chosen by a product, exact since all other terms are 0 * finite: indexing would end the
            # delegate before the head.
            chosen = torch.eq(self.columns, rest[0]).to(torch.float32)
            x = torch.bmm(chosen, x.view(1, *x.shape)).view(1, -1)
        logits = self.stack.logits(x)
        return logits.view(1, *logits.shape), *new

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Zeros of every input's shape and type."""
        # numpy takes zeroed pages from the system, which are never touched: caches need no memory.
        return tuple(
            torch.from_numpy(np.zeros([int(dim) for dim in spec.shape], dtype=spec.dtype))
            for spec in self.signature.inputs()
        )
