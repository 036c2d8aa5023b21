"""The road that programs took before they were emitted: torch modules, lowered by ExecuTorch.

An oracle for what `targets/xnnpack` emits, and for the arithmetic of XNNPACK: a quantized projection is written as
its meaning (activations quantized per token, weights dequantized, a linear product), in operators that ExecuTorch
lowers bit for bit and that torch runs as an exact emulation of the kernel.

Shapes: T tokens, K / N input and output channels, G groups of a row, V vocabulary, C hidden_size, Hkv key-value
    heads,
S cache slots, D head_dim.

Source: torchao quant_primitives (choose_qparams_affine, quantize_affine, dequantize_affine).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's spelling
from torch import Tensor

from helium_edge.config import ModelConfig
from helium_edge.model.decoder import MASKED, DecoderStack, causal_mask
from helium_edge.model.kv_cache import KvScales, Side
from helium_edge.model.parts import CodedRows, DenseParts, Embedding, Linear, Parts, stacked_bias
from helium_edge.model.rope import rope_tables
from helium_edge.model.text_model import last_token
from helium_edge.model.weights import EMBEDDING
from helium_edge.quant import QuantizedStore, QuantizedWeight
from helium_edge.quant.packing import embedding_4bit_weight
from helium_edge.runtime.executorch_library import load_modules
from helium_edge.runtime.quiet import quiet
from helium_edge.signature import GraphSignature, TextSignature


def build_stack(config: ModelConfig, parts: Parts) -> DecoderStack:
    """The decoder in operators that XNNPACK computes as torch does."""
    return DecoderStack(config, parts, gelu_tanh if config.hidden_act == "gelu_pytorch_tanh" else None)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh approximation, written out: XNNPACK takes `gelu` whole and computes the exact one."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


class TextModule(torch.nn.Module):
    """The one method of a model that is no language model.

    Args:
        stack: The model, with its weights.
        signature: Its input and output.
    """

    cos: Tensor
    sin: Tensor
    causal: Tensor
    positions: Tensor

    def __init__(self, stack: DecoderStack, signature: TextSignature) -> None:
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
        if not self.signature.task.pools:
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


def stored_scales(weight: QuantizedWeight) -> Tensor:
    """Scales in the type in which XNNPACK stores them: bfloat16 for int4, else float32."""
    return weight.scales.to(torch.bfloat16) if weight.scheme.bits == 4 else weight.scales


Matrix = QuantizedWeight | Tensor
"""A quantized matrix, or (N, K) float32."""


class StoreParts(DenseParts):
    """Quantized modules where the store has integers, float32 modules where it has not.

    Projections of one input are one product where their schemes agree: fewer nodes, and one quantization of the
    activations instead of three. The integers are the same either way.

    Args:
        store: The weights.
        scales: Of an int8 cache; None where the cache is not quantized.
    """

    def __init__(self, store: QuantizedStore, scales: KvScales | None = None) -> None:
        super().__init__(store.config, store)
        self._store = store
        self._scales = scales

    def embedding(self) -> torch.nn.Module:
        """See `Parts.embedding`."""
        weight = self._store.get(EMBEDDING)
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
        return Linear(matrix, bias) if isinstance(matrix, Tensor) else QuantizedLinear(matrix, bias)


def stack_matrices(weights: Sequence[Matrix]) -> Matrix:
    """Matrices of one format, one below the other.

    Raises:
        HeliumEdgeError: XNNPACK would compute another product than theirs.
    """
    quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
    if not quantized:
        return torch.cat([weight for weight in weights if isinstance(weight, Tensor)])
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


def _format(weight: Matrix) -> str:
    return str(weight.scheme) if isinstance(weight, QuantizedWeight) else "float32"


def load_exporter() -> None:
    """Import what lowering needs, quietly; it registers the operators that the decoder's parts call."""
    load_modules(
        (
            "torchao.quantization.quant_primitives",
            "executorch.exir",
            "executorch.exir.passes._quant_patterns_and_replacements",
            "executorch.backends.xnnpack.partition.xnnpack_partitioner",
        ),
        "the oracle of XNNPACK programs",
    )


def lower(methods: Mapping[str, TextModule | MethodModule], path: Path) -> None:
    """Lower modules by ExecuTorch's public road and write the program."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass

    with quiet(descriptors=False), torch.no_grad():
        exported = {
            name: torch.export.export(method.eval(), method.example_inputs(), strict=False)
            for name, method in methods.items()
        }
        edge = to_edge_transform_and_lower(
            exported,
            partitioner={name: [XnnpackPartitioner()] for name in exported},
            # Spelling out the orders of dimensions costs a copy operator a reshape, which the delegate does not
            # know.
            compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        )
        planning = MemoryPlanningPass(alloc_graph_input=False)
        program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
    with path.open("wb") as file:
        program.write_to_file(file)
