"""From logits to a token: greedy, or drawn after temperature, top-k, top-p, min-p. Knows no model and no text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from helium_edge.errors import BundleError, UsageError
from helium_edge.runtime.processors import Processors, Scores

_FIRST_NUCLEUS = 256
"""Tokens looked at first for top-p; nearly always enough, and far cheaper than sorting a vocabulary."""


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen, in the order of transformers.

    First what looks at the context, for greedy choices as well: repetition penalty, n-grams, suppressed tokens
    (`Processors`). Then what shapes a draw: temperature, top-k, top-p, min-p.

    Args:
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_k: Only the k most likely tokens stay; 0 keeps all.
        top_p: Only the smallest set of most likely tokens whose probabilities reach it stays; 1 keeps all.
        min_p: Only tokens at least this times as likely as the most likely one stay; 0 keeps all.
        repetition_penalty: Above 1, tokens that the context holds become less likely; 1 leaves them alone.
        no_repeat_ngram_size: No run of so many tokens comes twice; 0 allows all.
        suppress_tokens: Ids that are never chosen.
        seed: Of the random numbers; the same seed and logits give the same tokens.

    Raises:
        UsageError: A value outside its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    suppress_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"temperature {self.temperature} is out of range; allowed: 0 (greedy) and above")
        if self.top_k < 0:
            raise UsageError(f"top_k {self.top_k} is out of range; allowed: 0 (all tokens) and above")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p {self.top_p} is out of range; allowed: above 0, up to 1 (all tokens)")
        if not 0 <= self.seed < 1 << 64:
            raise UsageError(f"seed {self.seed} is out of range; allowed: 0 to 2**64 - 1")
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"min_p {self.min_p} is out of range; allowed: 0 (all tokens) to 1")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise UsageError(f"repetition_penalty {self.repetition_penalty} is out of range; allowed: above 0")
        if self.no_repeat_ngram_size < 0:
            size = self.no_repeat_ngram_size
            raise UsageError(f"no_repeat_ngram_size {size} is out of range; allowed: 0 (all runs) and above")

    @property
    def processors(self) -> Processors:
        """What looks at the context."""
        return Processors(self.repetition_penalty, self.no_repeat_ngram_size, self.suppress_tokens)


class Sampler:
    """Picks tokens, one random number each; equally likely tokens rank by id, the lowest first."""

    def __init__(self, options: SamplingOptions) -> None:
        self.options = options
        self._processors = options.processors
        self._bits = np.random.PCG64(options.seed)

    def pick(self, logits: Scores, context: Sequence[int] = ()) -> int:
        """Choose the next token.

        Args:
            logits: (V,) float32; -inf rules a token out.
            context: Ids of the prompt and of the tokens chosen since; only the processors look at it.

        Raises:
            BundleError: The logits hold NaN or +inf, or rule everything out.
            UsageError: The processors rule everything out.
        """
        best, scores = self._scores(logits, context)
        if self.options.temperature == 0:
            return best
        weights = self._weights(scores, best)
        candidates = self._candidates(weights)
        cumulative = np.cumsum(weights if candidates is None else weights[candidates])
        index = int(np.searchsorted(cumulative, self._uniform() * cumulative[-1], side="right"))
        return index if candidates is None else int(candidates[index])

    def probabilities(self, logits: Scores, context: Sequence[int] = ()) -> npt.NDArray[np.float64]:
        """What the next token is drawn from, (V,) float64 with sum 1; arguments and errors are those of `pick`."""
        best, scores = self._scores(logits, context)
        found = np.zeros(len(scores))
        if self.options.temperature == 0:
            found[best] = 1
            return found
        weights = self._weights(scores, best)
        candidates = self._candidates(weights)
        kept = slice(None) if candidates is None else candidates
        found[kept] = weights[kept]
        total: float = found.sum()
        return found / total

    def _scores(self, logits: Scores, context: Sequence[int]) -> tuple[int, Scores]:
        """The most likely token, and the logits to choose from."""
        best = int(np.argmax(logits))  # NaN counts as largest, so one look at the best token finds it
        if not math.isfinite(float(logits[best])):
            raise BundleError(
                f"the model returned {float(logits[best])} as the logit of token {best}; no token can be chosen",
                hint="`helium-edge parity BUNDLE` tells whether the exported graph is at fault",
            )
        if self._processors.are_idle:
            return best, logits
        scores = self._processors.apply(logits, context)
        best = int(np.argmax(scores))
        if not math.isfinite(float(scores[best])):
            raise UsageError(
                "repetition_penalty, no_repeat_ngram_size and suppress_tokens leave no token to choose",
                hint="use milder values",
            )
        return best, scores

    def _weights(self, scores: Scores, best: int) -> npt.NDArray[np.float64]:
        """Probabilities in units of the largest one, which is 1."""
        with np.errstate(over="ignore", under="ignore"):  # a tiny temperature: -inf and 0 are right
            scaled = (scores.astype(np.float64) - float(scores[best])) / self.options.temperature
            weights: npt.NDArray[np.float64] = np.exp(scaled)
        return weights

    def _candidates(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64] | None:
        """Ids that may be drawn; None stands for the whole vocabulary in its own order.

        Most likely first where top-k or top-p has ranked them, else in the vocabulary's order.
        """
        found = self._nucleus(weights)
        if self.options.min_p == 0:
            return found
        # The largest weight is 1, so that at least one stays.
        if found is None:
            return np.flatnonzero(weights >= self.options.min_p)
        return found[weights[found] >= self.options.min_p]

    def _nucleus(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64] | None:
        """Ids that top-k and top-p leave, most likely first; None stands for the whole vocabulary."""
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
