"""From logits to a token: greedy, or drawn after temperature, top-k and top-p. Knows no model and no text."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from helium_edge.errors import BundleError, UsageError

_FIRST_NUCLEUS = 256
"""Tokens looked at first for top-p; nearly always enough, and far cheaper than sorting a vocabulary."""


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen; temperature first, then top-k, then top-p.

    Args:
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_k: Only the k most likely tokens stay; 0 keeps all.
        top_p: Only the smallest set of most likely tokens whose probabilities reach it stays; 1 keeps all.
        seed: Of the random numbers; the same seed and logits give the same tokens.

    Raises:
        UsageError: A value outside its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"temperature {self.temperature} is out of range; allowed: 0 (greedy) and above")
        if self.top_k < 0:
            raise UsageError(f"top_k {self.top_k} is out of range; allowed: 0 (all tokens) and above")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p {self.top_p} is out of range; allowed: above 0, up to 1 (all tokens)")
        if not 0 <= self.seed < 1 << 64:
            raise UsageError(f"seed {self.seed} is out of range; allowed: 0 to 2**64 - 1")


class Sampler:
    """Picks tokens, one random number each; equally likely tokens rank by id, the lowest first."""

    def __init__(self, options: SamplingOptions) -> None:
        self.options = options
        self._bits = np.random.PCG64(options.seed)

    def pick(self, logits: npt.NDArray[np.float32]) -> int:
        """Choose the next token.

        Args:
            logits: (V,) float32; -inf rules a token out.

        Raises:
            BundleError: The logits hold NaN or +inf, or rule everything out.
        """
        best = int(np.argmax(logits))  # NaN counts as largest, so one look at the best token finds it
        if not math.isfinite(float(logits[best])):
            raise BundleError(
                f"the model returned {float(logits[best])} as the logit of token {best}; no token can be chosen",
                hint="`helium-edge parity BUNDLE` tells whether the exported graph is at fault",
            )
        if self.options.temperature == 0:
            return best
        with np.errstate(over="ignore", under="ignore"):  # a tiny temperature: -inf and 0 are right
            scaled = (logits.astype(np.float64) - float(logits[best])) / self.options.temperature
            weights = np.exp(scaled)
        candidates = self._candidates(weights)
        cumulative = np.cumsum(weights if candidates is None else weights[candidates])
        index = int(np.searchsorted(cumulative, self._uniform() * cumulative[-1], side="right"))
        return index if candidates is None else int(candidates[index])

    def _candidates(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64] | None:
        """Ids that may be drawn, most likely first; None stands for the whole vocabulary in its own order."""
        size = len(weights)
        top_k = min(self.options.top_k or size, size)
        if self.options.top_p == 1:
            return None if top_k == size else _largest(weights, top_k)
        total = float(np.sum(weights if top_k == size else weights[_largest(weights, top_k)]))
        looked_at = min(_FIRST_NUCLEUS, top_k)
        while True:
            ranked = _largest(weights, looked_at)
            cumulative = np.cumsum(weights[ranked])
            # The token that crosses top_p still belongs to the nucleus.
            inside = int(np.searchsorted(cumulative, self.options.top_p * total, side="left")) + 1
            if inside <= looked_at or looked_at == top_k:
                return ranked[:inside]
            looked_at = min(looked_at * 8, top_k)

    def _uniform(self) -> float:
        """A number in [0, 1) from raw bits, whose stream numpy guarantees across versions and machines."""
        return float(int(self._bits.random_raw()) >> 11) * 2.0**-53


def _largest(weights: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Indices of the `count` largest weights, largest first, equal ones by index."""
    smallest = np.partition(weights, len(weights) - count)[len(weights) - count]
    above = np.flatnonzero(weights > smallest)
    equal = np.flatnonzero(weights == smallest)[: count - len(above)]
    chosen = np.sort(np.concatenate([above, equal]))
    return chosen[np.argsort(-weights[chosen], kind="stable")]
