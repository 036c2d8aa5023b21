"""Faults of a host: a runner around a right one, which loses or misplaces what a call wrote into the cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from helium_edge.runtime.runner import Logits

Array = npt.NDArray[Any]


class FaultyHost(ABC):
    """Runs another runner, and edits the cache after each of its calls.

    Args:
        inner: A runner without a fault.
        chunk: Tokens of one prefill call.
    """

    def __init__(self, inner: Any, chunk: int) -> None:
        self._inner = inner
        self._chunk = chunk
        self.vocab_size = inner.vocab_size
        self.cache_len = inner.cache_len

    @property
    def position(self) -> int:
        return self._inner.position

    @property
    def cache_buffers(self) -> list[Array]:
        return self._inner.cache_buffers

    def reset(self) -> None:
        self._inner.reset()

    def prefill(self, tokens: Sequence[int]) -> Logits:
        logits = []
        for start in range(0, len(tokens), self._chunk):
            before = self._copy()
            logits.append(self._inner.prefill(tokens[start : start + self._chunk]))
            self.spoil(before, min(self._chunk, len(tokens) - start), decoding=False)
        return np.concatenate(logits) if len(logits[0]) > 1 else logits[-1]

    def decode(self, token: int) -> Logits:
        before = self._copy()
        logits = self._inner.decode(token)
        self.spoil(before, 1, decoding=True)
        return logits

    @abstractmethod
    def spoil(self, before: list[Array], count: int, *, decoding: bool) -> None:
        """Edit the cache after a call of `count` tokens; `before` is what it held."""

    def _copy(self) -> list[Array]:
        return [buffer.copy() for buffer in self.cache_buffers]

    def _rows(self, before: list[Array], count: int, more: int = 0) -> Iterator[tuple[Array, Array]]:
        """The slots that a call wrote, and `more` after them, now and before, slots first."""
        start = self.position - count
        slots = slice(start, start + count + more)
        for new, old in zip(self.cache_buffers, before, strict=True):
            yield np.moveaxis(new, -2, 0)[slots], np.moveaxis(old, -2, 0)[slots]


class SlotOff(FaultyHost):
    """New rows are copied to the slots after their own."""

    def spoil(self, before: list[Array], count: int, *, decoding: bool) -> None:
        for new, old in self._rows(before, count, more=1):
            written = new[:count].copy()
            new[:] = old
            new[1:] = written[: len(new) - 1]


class StaleCache(FaultyHost):
    """The rows of decode calls are lost: the cache stays as the prompt left it."""

    def spoil(self, before: list[Array], count: int, *, decoding: bool) -> None:
        if decoding:
            for new, old in self._rows(before, count):
                new[:] = old


class StaleBucket(FaultyHost):
    """ExecuTorch: the cache of a shorter decode method keeps what the last conversation left in it."""

    def reset(self) -> None:
        copied = self._inner._synced
        super().reset()
        self._inner._synced = copied

    def spoil(self, before: list[Array], count: int, *, decoding: bool) -> None:
        pass


HOST_FAULTS: dict[str, Callable[[Any, int], FaultyHost]] = {
    "cache one slot off": SlotOff,
    "stale cache": StaleCache,
    "stale bucket": StaleBucket,
}
