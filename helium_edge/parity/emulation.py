"""What kernels do to activations, in torch: the yardstick of level L1 rounds where the runtime rounds.

A kernel with int8 activations differs from float32 by about one percent, which would hide every bug smaller than
that. The yardstick therefore quantizes the activations of each product as the kernel does, and multiplies what is
left in float32 by the dequantized weights: whole models then agree to 2e-7 of rms(logit) at most positions.

At the others an activation lies so near the middle between two codes that float32 noise rounds it to the other
side: it *flips*, which moves a product by about a thousandth and the logits of that token by up to a few per cent.
A `Ledger` holds what the runtime itself rounded (`trace.py`), and at such *ties*, and at nothing else, the side is
taken that it took: so a flip is told from a bug.

Shapes: T tokens, K / N input and output channels.

Source: onnxruntime mlas sqnbitgemm (CompInt8: blocks of the weight's group size, symmetric, absmax / 127);
XNNPACK qd8 (per token, asymmetric), xnn_f32_qd8_asymmetric_quantization_params.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the field's spelling
from torch import Tensor

from helium_edge.model.kv_cache import KvScales, Side, round_rows
from helium_edge.model.parts import DenseParts, stacked_bias
from helium_edge.model.weights import HEAD, SCORE
from helium_edge.quant import PlannedWeight, QuantizedStore
from helium_edge.recipe import Recipe

TIE = 1e-3
"""Distance in codes from the middle between two codes, up to which float32 noise may decide: three times the most
that was measured. An activation that is wrong by this much is wrong by 8e-6 of the largest of its block, a tenth
of what level L1 lets pass anyway."""


@dataclass
class Ledger:
    """What the runtime rounded, for the next forward pass.

    Attributes:
        enabled: Activations are quantized at all; False gives the plain float32 decoder with the same weights.
        round_cache: New rows of an int8 cache are rounded; False leaves them for whoever compares them with codes.
        traced: The runtime's own inputs of products, each (T, K), by the index of the product in the order of the
            forward pass: qkv, o, gate_up, down of each layer, head. Where an activation lies between two codes,
            the one is taken that the runtime took. NaN where the runtime has no such row.
        ties: (T,) activations that were rounded to the other side for that reason.
    """

    enabled: bool = True
    round_cache: bool = True
    traced: Mapping[int, Tensor] = field(default_factory=dict)
    ties: Tensor | None = None


@dataclass(frozen=True)
class Codes:
    """Activations in codes, less the zero point.

    Attributes:
        exact: (T, K) before rounding.
        rounded: (T, K) as the kernel multiplies them.
        scale: Of a code, broadcastable to (T, K).
    """

    exact: Tensor
    rounded: Tensor
    scale: Tensor


class ActivationRule(Protocol):
    """How a kernel turns float activations into codes."""

    def codes(self, x: Tensor) -> Codes:
        """(T, K) activations in codes, bit for bit what the kernel makes of them."""
        ...


@dataclass(frozen=True)
class PerBlock:
    """Symmetric int8, one scale (absmax / 127) for each `block` activations of a token: MatMulNBits at level 4."""

    block: int

    def codes(self, x: Tensor) -> Codes:
        """See `ActivationRule.codes`."""
        absmax = x.view(x.shape[0], -1, self.block).abs().amax(dim=-1).repeat_interleave(self.block, dim=1)
        exact = x * torch.where(absmax > 0, _over(127.0, absmax), 0.0)
        return Codes(exact, exact.round(), absmax / 127.0)


@dataclass(frozen=True)
class PerToken:
    """Asymmetric int8, one scale and zero point per token: XNNPACK's qd8."""

    def codes(self, x: Tensor) -> Codes:
        """See `ActivationRule.codes`."""
        low, high = x.aminmax(dim=-1, keepdim=True)
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        inverse = torch.where(high > low, _over(255.0, high - low), 1.0)
        low, high = low * inverse, high * inverse
        # Equal but for rounding; the kernel takes the one that has lost less.
        zero = torch.where((-128.0 + low) + (127.0 + high) > 0, -128.0 - low, 127.0 - high)
        zero = zero.clamp(-128, 127).round()
        exact = x * inverse
        return Codes(exact, (exact.round() + zero).clamp(-128, 127) - zero, _over(1.0, inverse))


def _over(number: float, x: Tensor) -> Tensor:
    """The quotient, rounded once as in kernels: torch's `/` multiplies by the reciprocal, and rounds twice."""
    return torch.div(torch.full_like(x, number), x)


def quantize_activations(x: Tensor, rule: ActivationRule) -> Tensor:
    """(T, K) activations as the kernel multiplies them."""
    codes = rule.codes(x)
    return codes.rounded * codes.scale


@dataclass(frozen=True)
class Arithmetic:
    """How the products of a bundle are computed on this machine.

    Attributes:
        name: For reports.
        rules: Rule of each matrix by name; absent where activations stay as they are.
        exact: The rules are known to be those of this machine's kernels; where not, agreement is loose.
    """

    name: str
    rules: Mapping[str, ActivationRule]
    exact: bool = True

    @property
    def rounds(self) -> bool:
        """Whether any activation is rounded."""
        return bool(self.rules)


def arithmetic_of(target: str, recipe: Recipe, plan: Sequence[PlannedWeight]) -> Arithmetic:
    """How a target's kernels treat activations, here.

    Args:
        target: Name of the target.
        recipe: What was exported.
        plan: The scheme of each matrix.
    """
    quantized = [weight for weight in plan if weight.scheme is not None and weight.name != plan[0].name]
    if target == "xnnpack":
        return Arithmetic("int8 per token (XNNPACK qd8)", {weight.name: PerToken() for weight in quantized})
    if target == "coreml":
        return Arithmetic("float16", {}, exact=False)
    options = recipe.targets.onnx
    assert options is not None
    rules: dict[str, ActivationRule] = {}
    for weight in quantized:
        assert weight.scheme is not None
        level = options.head_accuracy_level if weight.name in (HEAD, SCORE) else options.accuracy_level
        block = weight.scheme.group_size or options.int8_block_size
        # In the portable dialect ONNX Runtime itself makes MatMulNBits of blockwise weights, of 4 and of 8 bits,
        # at level 4; where blocks do not divide K, there is one for the whole row, which it leaves alone.
        fused = options.dialect == "contrib" or weight.shape[1] % block == 0
        if fused and (level == 4 or options.dialect != "contrib"):
            rules[weight.name] = PerBlock(block)
    if not rules:
        return Arithmetic("float32", {})
    # Other processors round in blocks of another shape, which is not public.
    known = platform.machine().lower() in ("x86_64", "amd64")
    return Arithmetic("int8 per block (MatMulNBits, accuracy_level 4)", rules, exact=known)


class EmulatedParts(DenseParts):
    """The decoder's modules with dequantized weights, activations rounded as the kernels round them.

    Args:
        store: The weights.
        arithmetic: Rules of this target.
        ledger: Switches rounding on and off, and keeps ties; shared by all modules.
        scales: Of an int8 cache; None where the cache is not quantized.
    """

    def __init__(
        self, store: QuantizedStore, arithmetic: Arithmetic, ledger: Ledger, scales: KvScales | None = None
    ) -> None:
        super().__init__(store.config, store)
        self._store = store
        self._rules = arithmetic.rules
        self._ledger = ledger
        self._scales = scales
        self._products = 0

    def linear(self, names: Sequence[str]) -> torch.nn.Module:
        """See `Parts.linear`; projections of one rule are one product."""
        groups: list[tuple[ActivationRule | None, list[str]]] = []
        for name in names:
            rule = self._rules.get(name)
            if groups and groups[-1][0] == rule:
                groups[-1][1].append(name)
            else:
                groups.append((rule, [name]))
        parts = []
        for rule, group in groups:
            weight = torch.cat([self._store.dense(name) for name in group])
            bias = stacked_bias(self._store.config, self._store, group)
            parts.append(EmulatedLinear(weight, bias, rule, self._ledger, self._products))
        self._products += 1
        return parts[0] if len(parts) == 1 else _SideBySide(parts)

    def cache_rows(self, layer: int, side: Side) -> torch.nn.Module | None:
        """See `Parts.cache_rows`."""
        return None if self._scales is None else RoundedRows(self._scales.side(layer, side)[:, None], self._ledger)


class RoundedRows(torch.nn.Module):
    """New rows as an int8 cache gives them back; untouched where the ledger says so."""

    scale: Tensor

    def __init__(self, scale: Tensor, ledger: Ledger) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self._ledger = ledger

    def forward(self, rows: Tensor) -> Tensor:
        """(Hkv, T, D) -> (Hkv, T, D)."""
        return round_rows(rows, self.scale) if self._ledger.round_cache else rows


class EmulatedLinear(torch.nn.Module):
    """rule(x) @ weight.T + bias; plain where the rule is None or the ledger says so."""

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        rule: ActivationRule | None,
        ledger: Ledger,
        product: int,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self._rule = rule
        self._ledger = ledger
        self._product = product

    def forward(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)."""
        if self._rule is not None and self._ledger.enabled:
            x = self._round(x, self._rule)
        return F.linear(x, self.weight, self.bias)

    def _round(self, x: Tensor, rule: ActivationRule) -> Tensor:
        codes, ledger = rule.codes(x), self._ledger
        traced = ledger.traced.get(self._product)
        if traced is None:
            return codes.rounded * codes.scale
        theirs = rule.codes(traced).rounded
        below = codes.exact.floor()
        near = (codes.exact - below - 0.5).abs() < TIE
        ties = near & (theirs == 2 * below + 1 - codes.rounded)
        if ledger.ties is not None:
            ledger.ties += ties.sum(dim=1)
        return torch.where(ties, theirs, codes.rounded) * codes.scale


class _SideBySide(torch.nn.Module):
    """Several products of one input, outputs concatenated."""

    def __init__(self, parts: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N1 + N2 + ...)."""
        return torch.cat([part(x) for part in self.parts], dim=-1)
