"""What kernels with int8 activations do to them: rules of targets, by which parity's yardstick rounds.

Shapes: T tokens, K input channels.

Source: onnxruntime mlas sqnbitgemm (CompInt8: blocks of the weight's group size, symmetric, absmax / 127);
XNNPACK qd8 (per token, asymmetric), xnn_f32_qd8_asymmetric_quantization_params; KleidiAI
kai_lhs_quant_pack_qai8dxp_f32 (the same, halves away from zero). Which of them a processor takes was found by
running the runtimes' wheels for it (tests/integration/test_arm64_products.py).
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

Processor = Literal["x86-64", "arm64", "arm64 without dot product"]
"""Kinds of processors whose kernels round differently. Every phone since 2018 has the dot product."""

PROCESSORS: tuple[Processor, ...] = get_args(Processor)
SHIPPED_TO: tuple[Processor, ...] = ("x86-64", "arm64")
"""Those that a bundle is judged by, wherever it was exported."""


def this_processor() -> Processor | None:
    """The kind of this machine; None where nothing is known of its kernels."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return "x86-64"
    if machine not in ("aarch64", "arm64"):
        return None
    return "arm64" if _has_dot_product(Path("/proc/cpuinfo")) else "arm64 without dot product"


def _has_dot_product(cpuinfo: Path) -> bool:
    """Of an ARM64 machine; only Linux runs on some that have it not."""
    if sys.platform != "linux":
        return True
    try:
        return "asimddp" in cpuinfo.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return True


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
    """Symmetric int8, one scale (absmax / 127) for each `block` activations of a token; the last may be shorter.

    MatMulNBits at level 4 on x86, and on ARM64 of weights with zero points or of 8 bits.
    """

    block: int

    @override
    def codes(self, x: Tensor) -> Codes:
        width = x.shape[1]
        blocks = pad(x, (0, -width % self.block)).view(x.shape[0], -1, self.block)
        absmax = blocks.abs().amax(dim=-1).repeat_interleave(self.block, dim=1)[:, :width]
        exact = x * torch.where(absmax > 0, _over(127.0, absmax), 0.0)
        return Codes(exact, exact.round(), absmax / 127.0)

    @override
    def __str__(self) -> str:
        return f"per block of {self.block}"


@dataclass(frozen=True)
class PerToken(ActivationRule):
    """Asymmetric int8, one scale and zero point per token: XNNPACK's qd8, and KleidiAI's qai8dxp.

    Attributes:
        halves_away: What lies in the middle between two codes is rounded away from zero, not to the even one.
    """

    halves_away: bool = False

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
        rounded = _halves_away(exact) if self.halves_away else exact.round()
        return Codes(exact, (rounded + zero).clamp(-128, 127) - zero, _over(1.0, inverse))

    @override
    def __str__(self) -> str:
        return "per token"


def _halves_away(x: Tensor) -> Tensor:
    """Rounded as C's `roundf` does; adding a half in float32 would lift the number below it over the middle."""
    whole = x.trunc()
    return whole + torch.where((x - whole).abs() >= 0.5, x.sign(), 0.0)


def _over(number: float, x: Tensor) -> Tensor:
    """The quotient, rounded once as in kernels: torch's `/` multiplies by the reciprocal, and rounds twice."""
    return torch.div(torch.full_like(x, number), x)


@dataclass(frozen=True)
class Arithmetic:
    """How the products of a bundle are computed on a kind of processor.

    Attributes:
        name: For reports.
        rules: Rule of each matrix by name; absent where activations stay as they are.
        exact: The rules are known to be those of its kernels; where not, agreement is loose.
        half_cache: New rows of the cache are rounded to float16.
        half_attention: So are queries and the result of attention, since its kernel takes the type of its cache.
    """

    name: str
    rules: Mapping[str, ActivationRule]
    exact: bool = True
    half_cache: bool = False
    half_attention: bool = False

    @property
    def rounds(self) -> bool:
        """Whether any activation is rounded."""
        return bool(self.rules)
