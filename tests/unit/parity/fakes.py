"""A runner whose logits depend on everything in its cache, so that any fault in the cache changes them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from helium_edge.runtime.runner import Logits, check_tokens
from helium_edge.signature import LogitsMode

VOCAB = 50


def row_of(history: Sequence[tuple[int, int]]) -> Logits:
    """The logits (V,) after a history of (token, position)."""
    seed = zlib.crc32(repr([(int(token), int(position)) for token, position in history]).encode())
    return (3 * np.random.default_rng(seed).standard_normal(VOCAB)).astype(np.float32)


def true_row(tokens: Sequence[int]) -> Logits:
    """The logits after `tokens`, in a conversation of its own."""
    return row_of([(token, position) for position, token in enumerate(tokens)])


class FakeRunner:
    """A faultless runner that remembers how it was called.

    `logits` is what prefill returns; `noise` is added to every row, different for each; `chunk` is the length of
    a prefill graph.
    """

    vocab_size = VOCAB

    def __init__(self, *, logits: LogitsMode = "last", noise: float = 0.0, chunk: int = 8, cache_len: int = 512):
        self.cache_len = cache_len
        self.logits = logits
        self.noise = noise
        self.chunk = chunk
        self.cache: list[tuple[int, int]] = []
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self._noise = np.random.default_rng(5)

    @property
    def position(self) -> int:
        return len(self.cache)

    def reset(self) -> None:
        self.calls.append(("reset", ()))
        self.cache.clear()

    def prefill(self, tokens: Sequence[int]) -> Logits:
        check_tokens(tokens, position=self.position, cache_len=self.cache_len, vocab_size=self.vocab_size)
        self.calls.append(("prefill", tuple(tokens)))
        rows = np.stack([self.append(token) for token in tokens])
        return rows if self.logits == "all" else rows[-1:]

    def decode(self, token: int) -> Logits:
        check_tokens([token], position=self.position, cache_len=self.cache_len, vocab_size=self.vocab_size)
        self.calls.append(("decode", (token,)))
        return self.append(token)

    def append(self, token: int) -> Logits:
        self.cache.append((token, self.position))
        noise = self._noise.standard_normal(VOCAB).astype(np.float32)
        return (row_of(self.cache) + self.noise * noise).astype(np.float32)


class WrongSlot(FakeRunner):
    """Decode writes one slot off: the token is taken for one at the next position."""

    def decode(self, token: int) -> Logits:
        self.cache.append((token, self.position + 1))
        return row_of(self.cache)


class StaleCache(FakeRunner):
    """A new conversation still sees the last token of the one before."""

    stale: tuple[int, int] | None = None

    def reset(self) -> None:
        self.stale = self.cache[-1] if self.cache else None
        super().reset()

    def append(self, token: int) -> Logits:
        super().append(token)
        return row_of(self.cache if self.stale is None else [self.stale, *self.cache])


class WrongLastIndex(FakeRunner):
    """Prefill returns the row before that of the last token; the cache is right."""

    def prefill(self, tokens: Sequence[int]) -> Logits:
        before = row_of(self.cache + [(t, self.position + i) for i, t in enumerate(tokens[:-1])])
        super().prefill(tokens)
        return before[None]


class DroppedTail(FakeRunner):
    """Prefill runs whole chunks only."""

    def prefill(self, tokens: Sequence[int]) -> Logits:
        return super().prefill(tokens[: max(1, len(tokens) // self.chunk) * self.chunk])


class PaddedTail(FakeRunner):
    """The padding of the last chunk stays visible."""

    def prefill(self, tokens: Sequence[int]) -> Logits:
        row = super().prefill(tokens)
        self.cache += [(0, self.position) for _ in range(-len(tokens) % self.chunk)]
        return row


class LateNan(FakeRunner):
    """One bad value, late in the conversation."""

    def decode(self, token: int) -> Logits:
        row = super().decode(token)
        if self.position == 25:
            row[7] = np.nan
        return row
