"""The `Runner` protocol: one way to run a decoder, whatever runs it.

ONNX Runtime, the torch decoder and the Hugging Face reference all stand behind it, so that generation and parity
are written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from helium_edge.errors import CacheFullError, UsageError

Logits = npt.NDArray[np.float32]


class Runner(Protocol):
    """A decoder with its KV cache and the number of tokens that are in it.

    Attributes:
        vocab_size: V.
        cache_len: S, the number of tokens that fit.
        position: Tokens in the cache, which is the position of the next one.
    """

    vocab_size: int
    cache_len: int

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        ...

    def reset(self) -> None:
        """Start a new conversation; the buffers stay."""
        ...

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """Append one or more tokens, in chunks as the graphs allow.

        Returns:
            (R, V): the logits of every token (R = len(tokens)) when the graph returns all, else those of the
            last token (R = 1). The array is the caller's.

        Raises:
            CacheFullError: The tokens do not fit; nothing was written.
            UsageError: No tokens, or an id outside the vocabulary.
        """
        ...

    def decode(self, token: int) -> Logits:
        """Append one token and return its logits, (V,). The array is the caller's.

        Raises:
            CacheFullError: The cache is full; it stays as it was.
            UsageError: An id outside the vocabulary.
        """
        ...


@runtime_checkable
class CachedRunner(Runner, Protocol):
    """A runner that shows its cache, as those of bundles do."""

    @property
    def cache_buffers(self) -> list[npt.NDArray[Any]]:
        """Key and value of each layer in turn, slots in the last but one dimension; owned by the runner."""
        ...


@runtime_checkable
class SeekableRunner(CachedRunner, Protocol):
    """A runner whose cache can be said to hold any number of tokens, so that speed is measured at any depth."""

    def seek(self, position: int) -> None:
        """Take the first `position` slots for tokens, whatever they hold.

        Raises:
            CacheFullError: There are fewer slots.
        """
        ...


@runtime_checkable
class RewindableRunner(Runner, Protocol):
    """A runner that can go back to an earlier token, so that texts which begin alike are not run again."""

    def seek(self, position: int) -> None:
        """Keep the first `position` tokens in the cache and forget the others.

        Raises:
            CacheFullError: There are fewer tokens.
        """
        ...


@runtime_checkable
class RowsRunner(RewindableRunner, Protocol):
    """A runner that returns the last row of a prefill, or every row, as the caller asks."""

    def prefill_rows(self, tokens: Sequence[int]) -> Logits:
        """Append tokens as `prefill` does and return the logits of each, (len(tokens), V)."""
        ...


def check_seek(position: int, cache_len: int) -> None:
    """Refuse a position that no cache of this length has.

    Raises:
        CacheFullError: There are fewer slots.
    """
    if not 0 <= position <= cache_len:
        raise CacheFullError(f"position {position} is outside the KV cache of {cache_len} slots")


def check_tokens(tokens: Sequence[int], *, position: int, cache_len: int, vocab_size: int) -> None:
    """Refuse tokens that a runner cannot take, before anything is written.

    Raises:
        CacheFullError: More tokens than free slots.
        UsageError: No tokens, or an id outside the vocabulary.
    """
    if not len(tokens):
        raise UsageError("no tokens to run: at least one is needed")
    if position + len(tokens) > cache_len:
        raise CacheFullError(
            f"{len(tokens)} tokens do not fit: the KV cache has {cache_len} slots, {position} are taken",
            hint="shorten the prompt, or export with a larger cache_len",
        )
    bad = next((token for token in tokens if not 0 <= token < vocab_size), None)
    if bad is not None:
        raise UsageError(f"token id {bad} is outside the vocabulary of {vocab_size}")
