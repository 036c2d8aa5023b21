"""What kernels do to activations, in torch: the yardstick of level L1 rounds where the runtime rounds.

A kernel with int8 activations differs from float32 by about one percent, which would hide every bug smaller than
that. The yardstick therefore quantizes the activations of each product as the kernel does, and multiplies what is
left in float32 by the dequantized weights: whole models then agree to 2e-7 of rms(logit) at most positions.

At the others an activation lies so near the middle between two codes that float32 noise rounds it to the other
side: it *flips*, which moves a product by about a thousandth and the logits of that token by up to a few per cent.
A `Ledger` records such ties and can round them the other way, so that a flip can be told from a bug
(`yardstick.py`).

Shapes: T tokens, K / N input and output channels.

Source: onnxruntime mlas sqnbitgemm (CompInt8: blocks of the weight's group size, symmetric, absmax / 127);
XNNPACK qd8 (per token, asymmetric), as torchao choose_qparams_affine states it.
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

TIE = 6e-5
"""Distance in codes from the middle between two codes, below which float32 noise decides: noise of 3e-7 of a
token's rms, where the largest of a block, some two rms, is code 127, is 2e-5 codes."""


@dataclass(frozen=True)
class Tie:
    """An activation that float32 noise may round to either side.

    Attributes:
        product: Index of the product in the order of the forward pass: qkv, o, gate_up, down of each layer, head.
        part: Index of the projection within the product, where they are quantized apart.
        column: Input channel.
    """

    product: int
    part: int
    column: int


@dataclass(frozen=True)
class Sides:
    """The two codes that a tie lies between: the one that was taken, the other one, and the distance in codes."""

    taken: float
    other: float
    distance: float


@dataclass
class Ledger:
    """Ties of the last forward pass, and the codes that ties of the next one are to take.

    Attributes:
        enabled: Activations are quantized at all; False gives the plain float32 decoder with the same weights.
        watch: Whether ties are recorded; costs a pass over the activations.
        round_cache: New rows of an int8 cache are rounded; False leaves them for whoever compares them with codes.
        found: Ties by row.
        pinned: Codes to take, by row: a pass over other rows has other noise, and would choose anew.
    """

    enabled: bool = True
    watch: bool = False
    round_cache: bool = True
    found: dict[int, dict[Tie, Sides]] = field(default_factory=dict)
    pinned: Mapping[int, Mapping[Tie, float]] = field(default_factory=dict)


class ActivationRule(Protocol):
    """How a kernel turns float activations into codes: codes = activations * inverse + zero, rounded."""

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest code."""
        ...

    def scales(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """(T, K) -> scale, its inverse and the zero point, each broadcastable to (T, K)."""
        ...


@dataclass(frozen=True)
class PerBlock:
    """Symmetric int8, one scale (absmax / 127) for each `block` activations of a token: MatMulNBits at level 4."""

    block: int
    limits: tuple[int, int] = (-127, 127)

    def scales(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """See `ActivationRule.scales`."""
        absmax = x.view(x.shape[0], -1, self.block).abs().amax(dim=-1)
        scale = (absmax / 127.0).repeat_interleave(self.block, dim=1)
        return scale, torch.where(scale > 0, 1.0 / scale, 0.0), 0.0


@dataclass(frozen=True)
class PerToken:
    """Asymmetric int8, one scale and zero point per token: XNNPACK's qd8."""

    limits: tuple[int, int] = (-128, 127)

    def scales(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """See `ActivationRule.scales`."""
        low, high = x.aminmax(dim=-1, keepdim=True)
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        scale = ((high - low) / 255.0).clamp(min=torch.finfo(torch.float32).eps)
        zero = (-128.0 - (low / scale).round()).clamp(-128, 127)
        return scale, 1.0 / scale, zero


def quantize_activations(x: Tensor, rule: ActivationRule) -> Tensor:
    """(T, K) activations as the kernel multiplies them."""
    scale, inverse, zero = rule.scales(x)
    codes = ((x * inverse).round() + zero).clamp(*rule.limits)
    return (codes - zero) * scale


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
        for part, (rule, group) in enumerate(groups):
            weight = torch.cat([self._store.dense(name) for name in group])
            bias = stacked_bias(self._store.config, self._store, group)
            place = (self._products, part)
            parts.append(EmulatedLinear(weight, bias, rule, self._ledger, place))
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
        place: tuple[int, int],
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self._rule = rule
        self._ledger = ledger
        self._product, self._part = place

    def forward(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)."""
        if self._rule is not None and self._ledger.enabled:
            x = self._round(x, self._rule)
        return F.linear(x, self.weight, self.bias)

    def _round(self, x: Tensor, rule: ActivationRule) -> Tensor:
        scale, inverse, zero = rule.scales(x)
        exact = x * inverse
        codes = exact.round()
        for row, ties in self._ledger.pinned.items():
            for tie, code in ties.items():
                if (tie.product, tie.part) == (self._product, self._part):
                    codes[row, tie.column] = code
        if self._ledger.watch:
            self._record(exact, codes)
        return ((codes + zero).clamp_(*rule.limits) - zero) * scale

    def _record(self, exact: Tensor, codes: Tensor) -> None:
        low = exact.floor()
        distance = (exact - low - 0.5).abs_()
        for row, column in (distance < TIE).nonzero().tolist():
            taken, below = float(codes[row, column]), float(low[row, column])
            sides = Sides(taken, 2 * below + 1 - taken, float(distance[row, column]))
            self._ledger.found.setdefault(row, {})[Tie(self._product, self._part, column)] = sides


class _SideBySide(torch.nn.Module):
    """Several products of one input, outputs concatenated."""

    def __init__(self, parts: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N1 + N2 + ...)."""
        return torch.cat([part(x) for part in self.parts], dim=-1)
