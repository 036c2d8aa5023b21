"""What all runners over graphs of a few widths share: a position, and a prompt that is cut into calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from helium_edge.runtime.chunks import DECODE
from helium_edge.runtime.runner import Logits, check_seek, check_tokens
from helium_edge.signature import LogitsMode


class ChunkedRunner(ABC):
    """A `SeekableRunner` but for its buffers: cuts tokens into calls, which a subclass runs.

    Args:
        vocab_size: V.
        cache_len: S, slots of the cache.
        logits: `all`: a prefill returns the logits of every token; `last`: those of the last one.
    """

    def __init__(self, vocab_size: int, cache_len: int, logits: LogitsMode) -> None:
        self.vocab_size = vocab_size
        self.cache_len = cache_len
        self._logits: LogitsMode = logits
        self._position = 0

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self._position

    def reset(self) -> None:
        """Start a new conversation; stale slots are never read, so nothing is cleared."""
        self.seek(0)

    def seek(self, position: int) -> None:
        """Take what the first slots hold for tokens; see `SeekableRunner.seek`."""
        check_seek(position, self.cache_len)
        self._position = position

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """Append tokens, in chunks as wide as `_width` says; see `Runner.prefill`."""
        self._check(tokens)
        rows: list[Logits] = []
        done = 0
        while done < len(tokens):
            width = self._width(len(tokens) - done, self.cache_len - self._position)
            rows.append(self._append(width, tokens[done : done + width]))
            done += width
        return np.concatenate(rows) if self._logits == "all" else rows[-1]

    def decode(self, token: int) -> Logits:
        """Append one token; see `Runner.decode`."""
        self._check([token])
        row: Logits = self._append(DECODE, [token])[0]
        return row

    def _check(self, tokens: Sequence[int]) -> None:
        check_tokens(tokens, position=self._position, cache_len=self.cache_len, vocab_size=self.vocab_size)

    def _append(self, width: int, tokens: Sequence[int]) -> Logits:
        logits = self._run(width, tokens)
        self._position += len(tokens)
        return logits

    @abstractmethod
    def _width(self, remaining: int, room: int) -> int:
        """Token slots of the next call of a prefill: `next_width` of what is `remaining` and the `room` left."""

    @abstractmethod
    def _run(self, width: int, tokens: Sequence[int]) -> Logits:
        """Run a call of `width` token slots, of which the first `len(tokens)` are real, from `position` on.

        Its new rows are in the cache afterwards.

        Returns:
            (R, V), as of `Runner.prefill`; the caller's.
        """
