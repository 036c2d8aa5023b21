"""What changes logits before a token is chosen, by the tokens so far; in the order of transformers.

Repetition penalty, then n-grams that may not repeat, then tokens that are never chosen. Arithmetic is float32, an
operation for each logit, so that every host gets the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Processors:
    """Processors of logits; the defaults change nothing.

    Args:
        repetition_penalty: Positive logits of tokens that the context holds are divided by it, others multiplied.
        no_repeat_ngram_size: No run of so many tokens comes twice; 0 allows all.
        suppress_tokens: Ids that are never chosen; those outside the vocabulary have no effect.
    """

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    suppress_tokens: tuple[int, ...] = ()

    @property
    def are_idle(self) -> bool:
        """Whether they change nothing."""
        return self == Processors()

    def apply(self, logits: Scores, context: Sequence[int]) -> Scores:
        """Logits to choose from, (V,) float32; the given ones are left alone.

        Args:
            logits: (V,) float32.
            context: Ids of the prompt and of the tokens chosen since.
        """
        if self.are_idle:
            return logits
        scores = logits.astype(np.float32, copy=True)
        ids = np.asarray(context, np.int64)
        if self.repetition_penalty != 1:
            _penalise(scores, ids, np.float32(self.repetition_penalty))
        if self.no_repeat_ngram_size:
            scores[_within(_repeating(ids, self.no_repeat_ngram_size), len(scores))] = -np.inf
        if self.suppress_tokens:
            scores[_within(np.asarray(self.suppress_tokens, np.int64), len(scores))] = -np.inf
        return scores


def _penalise(scores: Scores, ids: npt.NDArray[np.int64], penalty: np.float32) -> None:
    seen = _within(np.unique(ids), len(scores))
    old = scores[seen]
    with np.errstate(over="ignore"):  # an infinite penalty of a token is a token ruled out
        scores[seen] = np.where(old < 0, old * penalty, old / penalty)


def _repeating(ids: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Ids after which the last `size` tokens would stand in the context a second time."""
    if len(ids) < size:
        return ids[:0]
    runs = np.lib.stride_tricks.sliding_window_view(ids, size)
    last = ids[len(ids) - size + 1 :]
    found: npt.NDArray[np.int64] = runs[(runs[:, :-1] == last).all(axis=1), -1]
    return found


def _within(ids: npt.NDArray[np.int64], vocab_size: int) -> npt.NDArray[np.int64]:
    return ids[(ids >= 0) & (ids < vocab_size)]
