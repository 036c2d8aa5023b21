"""`HalfParts`: the decoder's modules in float16, with the store's integers, safe in float16.

Two traps of the conversion shape the code here and in the decoder stack. A division, and a Python scalar in
`clamp`, promote float16 to float32 for all that follows, and linear layers then become a cast and a matmul instead
of `linear`. And a reciprocal has an epsilon of 1e-4 added to its divisor. So nothing is divided, and constants of
that kind are float16 buffers.

Shapes: T tokens of this call, K / N input and output channels, C hidden_size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the field's spelling
from torch import Tensor

from helium_edge.model.kv_cache import Side
from helium_edge.model.parts import stacked_bias
from helium_edge.model.weights import EMBEDDING
from helium_edge.quant import QuantizedStore
from helium_edge.targets.coreml.weights import HalfMatrix, QuantizedMatrix, check_half, load_matrix, stack_matrices

_SMALLEST_NORMAL = 2.0**-14


class HalfParts:
    """Parts of a `DecoderStack` for CoreML; projections of one input are one `linear` where their schemes agree.

    Args:
        store: The weights; each is read once.
        on_weight: Called with the name of each matrix once it is taken over.
    """

    def __init__(self, store: QuantizedStore, on_weight: Callable[[str], None]) -> None:
        self._store = store
        self._on_weight = on_weight

    def embedding(self) -> torch.nn.Module:
        """See `Parts.embedding`."""
        return HalfEmbedding(self._load(EMBEDDING))

    def linear(self, names: Sequence[str]) -> torch.nn.Module:
        """See `Parts.linear`."""
        matrices = {name: self._load(name) for name in names}
        groups = [list(group) for _, group in itertools.groupby(names, key=lambda name: matrices[name].layout)]
        parts = [
            HalfLinear(stack_matrices([matrices.pop(name) for name in group]), self._bias(group))
            for group in groups
        ]
        return parts[0] if len(parts) == 1 else SideBySide(parts)

    def norm(self, name: str) -> torch.nn.Module:
        """See `Parts.norm`."""
        gain = self._store.vector(name)
        return HalfNorm(check_half(name, gain, gain.to(torch.float16)), self._store.config.rms_norm_eps)

    def cache_rows(self, layer: int, side: Side) -> torch.nn.Module | None:  # noqa: ARG002
        """See `Parts.cache_rows`: float16, like everything else."""
        return None

    def _load(self, name: str) -> HalfMatrix | QuantizedMatrix:
        matrix = load_matrix(self._store, name)
        self._on_weight(name)
        return matrix

    def _bias(self, names: Sequence[str]) -> Tensor | None:
        bias = stacked_bias(self._store.config, self._store, names)
        return None if bias is None else check_half(f"bias of {names[0]}", bias, bias.to(torch.float16))


class HalfEmbedding(torch.nn.Module):
    """Rows of a matrix."""

    def __init__(self, matrix: HalfMatrix | QuantizedMatrix) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, token_ids: Tensor) -> Tensor:
        """(T,) int64 -> (T, C)."""
        return F.embedding(token_ids, self.matrix())


class HalfLinear(torch.nn.Module):
    """x @ weight.T + bias."""

    bias: Tensor | None

    def __init__(self, matrix: HalfMatrix | QuantizedMatrix, bias: Tensor | None) -> None:
        super().__init__()
        self.matrix = matrix
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)."""
        return F.linear(x, self.matrix(), self.bias)


class SideBySide(torch.nn.Module):
    """Several projections of one input, outputs concatenated."""

    def __init__(self, parts: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N1 + N2 + ...)."""
        return torch.cat([part(x) for part in self.parts], dim=-1)


class HalfNorm(torch.nn.Module):
    """RMSNorm over the last axis that neither overflows nor loses eps in float16.

    The plain form squares x, which overflows above 256, and adds eps, which is 1e-8 in released models and 0 in
    float16. For any r > 0, with y = x r^2: x / sqrt(mean(x^2) + eps) = y / sqrt(mean(y^2) + (sqrt(eps) r^2)^2).
    Here r^2 is 1 / max(|x|), so that every |y| is at most 1 and mean(y^2) at least 1 / C; sqrt(1e-8) is 1e-4,
    which float16 has. r itself is taken, not r^2, because 1 / max(|x|) has no normal float16 above 16384 and r
    always has one. The maximum is held above sqrt(eps) and the smallest normal number, for rows of zeros.

    Args:
        gain: (C,) float16.
        eps: Of the model.
    """

    gain: Tensor
    root_eps: Tensor
    floor: Tensor

    def __init__(self, gain: Tensor, eps: float) -> None:
        super().__init__()
        root = math.sqrt(eps)
        self.register_buffer("gain", gain)
        self.register_buffer("root_eps", torch.tensor([root], dtype=torch.float16))
        self.register_buffer("floor", torch.tensor([max(root, _SMALLEST_NORMAL)], dtype=torch.float16))

    def forward(self, x: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        r = torch.rsqrt(torch.maximum(x.abs().amax(-1, keepdim=True), self.floor))
        y = x * r * r
        root_eps = self.root_eps * r * r
        mean_square = (y * y).mean(-1, keepdim=True)
        return y * torch.rsqrt(mean_square + root_eps * root_eps) * self.gain
