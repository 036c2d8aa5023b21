"""What kernels do to activations, in torch: the yardstick of level L1 rounds where the runtime rounds.

A kernel with int8 activations differs from float32 by about one percent, which would hide every bug smaller than
that. The yardstick therefore quantizes the activations of each product as the kernel does, and multiplies what is
left in float32 by the dequantized weights: whole models then agree to 2e-7 of rms(logit) at most positions.

At the others an activation lies so near the middle between two codes that float32 noise rounds it to the other
side: it *flips*, which moves a product by about a thousandth and the logits of that token by up to a few per cent.
A `Ledger` holds what the runtime itself rounded (`trace.py`), and at such *ties*, and at nothing else, the side is
taken that it took: so a flip is told from a bug.

Shapes: T tokens, K / N input and output channels.

Source: the rules of `quant/activations.py`, which a target names for its kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812 - the field's spelling
from torch import Tensor
from typing_extensions import override

from helium_edge.model.kv_cache import KvScales, Side, beyond_half_rounding, round_rows, round_to_half
from helium_edge.model.parts import DenseParts, stacked_bias
from helium_edge.quant import WeightStore
from helium_edge.quant.activations import ActivationRule, Arithmetic

TIE = 3e-3
"""Distance in codes from the middle between two codes, up to which float32 noise may decide: twice the most that
was measured, which depends on the processor (an AMD EPYC decided one beyond 1e-3). An activation that is wrong by
this much is wrong by 2.4e-5 of the largest of its block, a quarter of what level L1 lets pass anyway."""

HALF_NOISE = 2e-6
"""The same where numbers are rounded to float16, relative to the rms of their row: a number of the runtime is
taken that is the nearest one to ours but for this much."""


@dataclass
class Ledger:
    """What the runtime rounded, for the next forward pass.

    Attributes:
        enabled: Activations are quantized at all; False gives the plain float32 decoder with the same weights.
        processor: Index of the arithmetic by which they are, among those that the modules were made for.
        round_cache: New rows of an int8 or float16 cache are rounded; False leaves them for whoever compares them
            with what the cache holds.
        traced: The runtime's own inputs of products, each (T, K), by the index of the product in the order of the
            forward pass: qkv, o, gate_up, down of each layer, head; and queries (T, H * D) by `query_place`. Where
            an activation lies between two codes, the one is taken that the runtime took. NaN where the runtime has
            no such row.
        ties: (T,) activations that were rounded to the other side for that reason.
        flips: Ties that are rounded to the other side whatever is traced, each (T, K), by the index of the
            product.
        near: Filled with the ties of each product, likewise, where it is not None.
    """

    enabled: bool = True
    processor: int = 0
    round_cache: bool = True
    traced: Mapping[int, Tensor] = field(default_factory=dict)
    ties: Tensor | None = None
    flips: Mapping[int, Tensor] = field(default_factory=dict)
    near: dict[int, Tensor] | None = None


Rules = tuple[ActivationRule | None, ...]
"""Of one product, under each arithmetic."""


def query_place(layer: int) -> int:
    """Where a ledger has the queries of a layer, which are the input of no product."""
    return -1 - layer


def _listed(arithmetic: Arithmetic | Sequence[Arithmetic]) -> Sequence[Arithmetic]:
    return [arithmetic] if isinstance(arithmetic, Arithmetic) else arithmetic


class EmulatedParts(DenseParts):
    """The decoder's modules with dequantized weights, activations rounded as the kernels round them.

    Args:
        store: The weights.
        arithmetic: Rules of this target on this machine, or several: the ledger says which are followed.
        ledger: Switches rounding on and off, and keeps ties; shared by all modules.
        scales: Of an int8 cache; None where the cache is not quantized.
    """

    def __init__(
        self,
        store: WeightStore,
        arithmetic: Arithmetic | Sequence[Arithmetic],
        ledger: Ledger,
        scales: KvScales | None = None,
    ) -> None:
        super().__init__(store.config, store)
        self._store = store
        here = _listed(arithmetic)
        self._rules = [one.rules for one in here]
        self._half_cache, self._half_attention = here[0].half_cache, here[0].half_attention
        self._ledger = ledger
        self._scales = scales
        self._products = 0

    @override
    def linear(self, names: Sequence[str]) -> torch.nn.Module:
        """Projections of one rule are one product."""
        groups: list[tuple[Rules, list[str]]] = []
        for name in names:
            rules = tuple(each.get(name) for each in self._rules)
            if groups and groups[-1][0] == rules:
                groups[-1][1].append(name)
            else:
                groups.append((rules, [name]))
        parts = []
        for rules, group in groups:
            weight = torch.cat([self._store.dense(name) for name in group])
            bias = stacked_bias(self._store.config, self._store, group)
            parts.append(EmulatedLinear(weight, bias, rules, self._ledger, self._products))
        self._products += 1
        return parts[0] if len(parts) == 1 else _SideBySide(parts)

    @override
    def cache_rows(self, layer: int, side: Side) -> torch.nn.Module | None:
        if self._half_cache:
            return HalfCacheRows(self._ledger)
        return None if self._scales is None else RoundedRows(self._scales.side(layer, side)[:, None], self._ledger)

    @override
    def query_rows(self, layer: int) -> torch.nn.Module | None:
        return HalfRows(self._ledger, query_place(layer)) if self._half_attention else None

    @override
    def attended_rows(self, layer: int) -> torch.nn.Module | None:
        """Asked for before the product that reads them."""
        return HalfRows(self._ledger, self._products) if self._half_attention else None


class HalfCacheRows(torch.nn.Module):
    """New rows as a float16 cache gives them back; untouched where the ledger says so."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def forward(self, rows: Tensor) -> Tensor:
        """(Hkv, T, D) -> (Hkv, T, D)."""
        return round_to_half(rows) if self._ledger.round_cache else rows


class HalfRows(torch.nn.Module):
    """Queries, or the result of attention, in float16; what lies between two numbers as the runtime took it.

    Args:
        ledger: Has the numbers of the runtime, where they were traced.
        place: Where it has them.
    """

    def __init__(self, ledger: Ledger, place: int) -> None:
        super().__init__()
        self._ledger = ledger
        self._place = place

    def forward(self, x: Tensor) -> Tensor:
        """(H, T, D) -> (H, T, D), or (T, H * D) -> (T, H * D)."""
        if not self._ledger.enabled:
            return x
        ours, traced = round_to_half(x), self._ledger.traced.get(self._place)
        if traced is None:
            return ours
        by_token = x.dim() == 2
        theirs = traced if by_token else traced.view(traced.shape[0], x.shape[0], -1).transpose(0, 1)
        theirs = round_to_half(theirs)
        beyond = torch.from_numpy(beyond_half_rounding(theirs.numpy(), x.numpy())).abs()
        taken = beyond <= HALF_NOISE * x.square().mean(dim=-1, keepdim=True).sqrt()
        if self._ledger.ties is not None:
            turned = taken & (theirs != ours)
            self._ledger.ties += turned.sum(dim=1 if by_token else (0, 2))
        return torch.where(taken, theirs, ours)


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
    """rule(x) @ weight.T + bias; plain where the rule is None or the ledger says so, which also tells the rule."""

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        rules: Rules,
        ledger: Ledger,
        product: int,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self._rules = rules
        self._ledger = ledger
        self._product = product

    def forward(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)."""
        rule = self._rules[self._ledger.processor]
        if rule is not None and self._ledger.enabled:
            x = self._round(x, rule)
        return F.linear(x, self.weight, self.bias)

    def _round(self, x: Tensor, rule: ActivationRule) -> Tensor:
        codes, ledger = rule.codes(x), self._ledger
        traced, flips = ledger.traced.get(self._product), ledger.flips.get(self._product)
        if traced is None and flips is None and ledger.near is None:
            return codes.rounded * codes.scale
        below = codes.exact.floor()
        near = (codes.exact - below - 0.5).abs() < TIE
        other = 2 * below + 1 - codes.rounded
        if ledger.near is not None:
            ledger.near[self._product] = near
        if flips is not None:
            return torch.where(flips & near, other, codes.rounded) * codes.scale
        if traced is None:
            return codes.rounded * codes.scale
        theirs = rule.codes(traced).rounded
        ties = near & (theirs == other)
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
