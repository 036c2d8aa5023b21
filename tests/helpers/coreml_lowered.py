"""The other way to a CoreML program, as an oracle: torch modules through torch.export, executorch and coremltools.

It needs executorch, and takes ten seconds and more for a program. What it writes is read and evaluated as ours is.

Two traps of that conversion shape the modules. A division, and a Python scalar in `clamp`, promote float16 to
float32 for all that follows, and linear layers then become a cast and a matmul instead of `linear`. A reciprocal
has an epsilon of 1e-4 added to its divisor. So nothing is divided, and such constants are float16 buffers.

Shapes: N output channels, K input channels.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's spelling
from torch import Tensor

from helium_edge.model.decoder import DecoderStack, causal_mask
from helium_edge.model.parts import stacked_bias
from helium_edge.model.rope import rope_tables
from helium_edge.model.text_model import last_token
from helium_edge.model.weights import EMBEDDING
from helium_edge.quant import QuantizedStore, QuantizedWeight
from helium_edge.runtime.quiet import quiet
from helium_edge.signature import GraphSignature, TextSignature

MASKED = -3e4
DTYPES = {"int64": torch.int64, "float16": torch.float16}


class Matrix(torch.nn.Module):
    """Calling it gives (N, K) float16: the weights themselves, or integers behind a dequantization."""

    def __init__(self, weights: Sequence[QuantizedWeight | Tensor]) -> None:
        super().__init__()
        dense = [weight for weight in weights if isinstance(weight, Tensor)]
        self.quantized = not dense
        if dense:
            self.register_buffer("weight", torch.cat(dense).to(torch.float16))
            return
        parts = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
        scheme, shift = parts[0].scheme, 0 if parts[0].scheme.symmetric else 8
        self.limits = (-8, 7) if scheme.bits == 4 else (-128, 127)
        self.block = (1, scheme.group_size or parts[0].shape[1])
        points = [part.zero_points - shift for part in parts if part.zero_points is not None]
        self.register_buffer("codes", torch.cat([part.codes - shift for part in parts]))
        self.register_buffer("scales", torch.cat([part.scales for part in parts]).to(torch.float16))
        self.register_buffer("zeros", torch.cat(points) if points else None)

    def forward(self) -> Tensor:
        if not self.quantized:
            return self.weight
        return torch.ops.torchao.dequantize_affine(
            self.codes, self.block, self.scales, self.zeros, torch.int8, *self.limits, output_dtype=torch.float16
        )


class Embedding(torch.nn.Module):
    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, token_ids: Tensor) -> Tensor:
        return F.embedding(token_ids, self.matrix())


class Linear(torch.nn.Module):
    def __init__(self, matrix: Matrix, bias: Tensor | None) -> None:
        super().__init__()
        self.matrix = matrix
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.matrix(), self.bias)


class SideBySide(torch.nn.Module):
    def __init__(self, parts: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=-1)


class HalfNorm(torch.nn.Module):
    """The norm of the decoder in float16; why it is computed so is told there."""

    def __init__(self, gain: Tensor, eps: float) -> None:
        super().__init__()
        root = math.sqrt(eps)
        self.register_buffer("gain", gain)
        self.register_buffer("root_eps", torch.tensor([root], dtype=torch.float16))
        self.register_buffer("floor", torch.tensor([max(root, 2.0**-14)], dtype=torch.float16))

    def forward(self, x: Tensor) -> Tensor:
        r = torch.rsqrt(torch.maximum(x.abs().amax(-1, keepdim=True), self.floor))
        y = x * r * r
        root_eps = self.root_eps * r * r
        mean_square = (y * y).mean(-1, keepdim=True)
        return y * torch.rsqrt(mean_square + root_eps * root_eps) * self.gain


class HalfParts:
    """Parts of a `DecoderStack` in float16; projections of one input are one where their schemes agree."""

    def __init__(self, store: QuantizedStore) -> None:
        self._store = store
        self._schemes = {planned.name: planned.scheme for planned in store.plan}

    def embedding(self) -> torch.nn.Module:
        return Embedding(Matrix([self._store.get(EMBEDDING)]))

    def linear(self, names: Sequence[str]) -> torch.nn.Module:
        parts = []
        for _, group in itertools.groupby(names, key=self._schemes.__getitem__):
            found = list(group)
            bias = stacked_bias(self._store.config, self._store, found)
            matrix = Matrix([self._store.get(name) for name in found])
            parts.append(Linear(matrix, None if bias is None else bias.to(torch.float16)))
        return parts[0] if len(parts) == 1 else SideBySide(parts)

    def norm(self, name: str) -> torch.nn.Module:
        return HalfNorm(self._store.vector(name).to(torch.float16), self._store.config.rms_norm_eps)

    def cache_rows(self, layer: int, side: Any) -> None:
        return None

    def query_rows(self, layer: int) -> None:
        return None

    def attended_rows(self, layer: int) -> None:
        return None


class LoweredMethod(torch.nn.Module):
    """One method of a language model over a stack that all methods share."""

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
        positions = self.rows + past_length
        rope = self.cos.index_select(0, positions), self.sin.index_select(0, positions)
        on_past = torch.where(self.slots < past_length, self.seen, self.masked)
        past = rest[1:] if self.signature.has_last_index else rest
        x, new = self.stack(input_ids.view(-1), rope, (on_past, self.causal), past)
        if self.signature.has_last_index:
            x = x.index_select(0, rest[0])
        return self.stack.logits(x)[None].to(torch.float32), *new


class LoweredText(torch.nn.Module):
    """The one method of a model that is no language model."""

    def __init__(self, stack: DecoderStack, signature: TextSignature) -> None:
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
        x = self.stack.encode(input_ids.view(-1), (self.cos, self.sin), self.causal)
        if self.signature.task.pools:
            last = last_token(input_ids, self.positions, self.signature.pad_token_id)
            return self.stack.logits(x.index_select(0, last)).to(torch.float32)
        return self.stack.logits(x)[None].to(torch.float32)


def lower(store: QuantizedStore, signatures: dict[str, Any], ios: int, path: Path) -> None:
    """Write the methods of one program to a `.pte`, without facts about the model."""
    with quiet():
        for module in (
            "torchao.quantization.quant_primitives",
            "executorch.exir",
            "executorch.backends.apple.coreml.partition",
        ):
            importlib.import_module(module)
        from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
        from executorch.exir.passes import MemoryPlanningPass

        stack = DecoderStack(store.config, HalfParts(store))
        exported = {}
        for name, signature in sorted(signatures.items()):
            module = LoweredText if isinstance(signature, TextSignature) else LoweredMethod
            inputs = tuple(
                torch.zeros([int(dim) for dim in spec.shape], dtype=DTYPES[spec.dtype])
                for spec in signature.inputs()
            )
            with torch.no_grad():
                exported[name] = torch.export.export(module(stack, signature).eval(), inputs, strict=False)
        edge = to_edge_transform_and_lower(
            exported,
            partitioner={name: [_partitioner(ios)] for name in exported},
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        planning = MemoryPlanningPass(alloc_graph_input=False)
        program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
        with path.open("wb") as file:
            program.write_to_file(file)


def _partitioner(ios: int) -> Any:
    import coremltools as ct
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.compiler.coreml_preprocess import MULTIMETHOD_WEIGHT_SHARING_STRATEGY
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    specs = CoreMLBackend.generate_compile_specs(
        compute_unit=ct.ComputeUnit.ALL,
        minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
        compute_precision=ct.precision.FLOAT16,
        model_type=CoreMLBackend.MODEL_TYPE.MODEL,
    )
    strategy = MULTIMETHOD_WEIGHT_SHARING_STRATEGY
    sharing = strategy.POSITIONAL if ios >= 18 else strategy.DISABLED
    specs.append(CoreMLBackend.generate_multimethod_weight_sharing_strategy_compile_spec(sharing))
    return CoreMLPartitioner(compile_specs=specs, lower_full_graph=True)
