"""What kernels with int8 activations do to them: rules of targets, by which parity's yardstick rounds.

Shapes: T tokens, K input channels.

Source: onnxruntime mlas sqnbitgemm (CompInt8: blocks of the weight's group size, symmetric, absmax / 127);
XNNPACK qd8 (per token, asymmetric), xnn_f32_qd8_asymmetric_quantization_params.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override


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
class PerBlock(ActivationRule):
    """Symmetric int8, one scale (absmax / 127) for each `block` activations of a token: MatMulNBits at level 4."""

    block: int

    @override
    def codes(self, x: Tensor) -> Codes:
        absmax = x.view(x.shape[0], -1, self.block).abs().amax(dim=-1).repeat_interleave(self.block, dim=1)
        exact = x * torch.where(absmax > 0, _over(127.0, absmax), 0.0)
        return Codes(exact, exact.round(), absmax / 127.0)


@dataclass(frozen=True)
class PerToken(ActivationRule):
    """Asymmetric int8, one scale and zero point per token: XNNPACK's qd8."""

    @override
    def codes(self, x: Tensor) -> Codes:
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
