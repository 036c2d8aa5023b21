"""A decoder whose next token depends on a table alone, and one whose logits depend on every token before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from helium_edge.runtime.runner import Logits, check_seek, check_tokens


class HistoryRunner:
    """Logits are a fixed function of all tokens in a cache of slots, so that a stale slot changes them.

    Args:
        vocab_size: V.
        cache_len: S.
        logits: Rows that `prefill` returns.
    """

    def __init__(self, vocab_size: int = 7, cache_len: int = 32, logits: str = "all") -> None:
        self.vocab_size = vocab_size
        self.cache_len = cache_len
        self.fed: list[int] = []
        self._logits = logits
        self._slots = [0] * cache_len
        self._position = 0

    @property
    def position(self) -> int:
        return self._position

    def reset(self) -> None:
        self._position = 0

    def seek(self, position: int) -> None:
        check_seek(position, self.cache_len)
        self._position = position

    def prefill(self, tokens: Sequence[int]) -> Logits:
        check_tokens(tokens, position=self._position, cache_len=self.cache_len, vocab_size=self.vocab_size)
        rows = np.stack([self._step(token) for token in tokens])
        return rows if self._logits == "all" else rows[-1:]

    def decode(self, token: int) -> Logits:
        check_tokens([token], position=self._position, cache_len=self.cache_len, vocab_size=self.vocab_size)
        return self._step(token)

    def _step(self, token: int) -> Logits:
        self._slots[self._position] = token
        self._position += 1
        self.fed.append(token)
        return self.row(self._slots[: self._position])

    def row(self, tokens: Sequence[int]) -> Logits:
        """Logits behind these tokens, (V,)."""
        seed = hash((tuple(tokens), self.vocab_size)) % 2**32
        return np.random.default_rng(seed).normal(0, 2, self.vocab_size).astype(np.float32)


class TableRunner(HistoryRunner):
    """A bigram model: `table[token]` are the logits behind a token."""

    def __init__(self, table: Any, **kwargs: Any) -> None:
        super().__init__(vocab_size=len(table), **kwargs)
        self.table = np.asarray(table, np.float32)

    def row(self, tokens: Sequence[int]) -> Logits:
        found: Logits = self.table[tokens[-1]]
        return found


class RowsOnDemand(HistoryRunner):
    """Returns the last row of a prefill, or every one when asked."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(logits="last", **kwargs)

    def prefill_rows(self, tokens: Sequence[int]) -> Logits:
        check_tokens(tokens, position=self._position, cache_len=self.cache_len, vocab_size=self.vocab_size)
        return np.stack([self._step(token) for token in tokens])
