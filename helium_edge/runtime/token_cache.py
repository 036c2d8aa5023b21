"""A KV cache that knows its tokens, so that a text which begins as the last one did is not run again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from helium_edge.runtime.rows import rows_of
from helium_edge.runtime.runner import CachedRunner, Logits, SeekableRunner


class TokenCache:
    """A `Runner` that remembers the ids which its cache holds.

    Behind an interrupted call the cache may hold more than the ids say, never less.

    Args:
        runner: The decoder. The ids are right while it is used through here alone; `forget` them otherwise.
    """

    def __init__(self, runner: CachedRunner) -> None:
        self.runner = runner
        self.vocab_size = runner.vocab_size
        self.cache_len = runner.cache_len
        self._ids: list[int] = []

    @property
    def ids(self) -> Sequence[int]:
        """Tokens that are known to be in the cache, from the first slot on."""
        return self._ids

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self.runner.position

    @property
    def cache_buffers(self) -> list[npt.NDArray[Any]]:
        """Key and value of each layer in turn; owned by the runner."""
        return self.runner.cache_buffers

    def forget(self) -> None:
        """Somebody else used the runner: nothing is known of its cache."""
        self._ids.clear()

    def reset(self) -> None:
        """Start a new conversation."""
        self.runner.reset()
        self._ids.clear()

    def follow(self, ids: Sequence[int]) -> list[int]:
        """Go back to where the cache and `ids` part, and return the ids that have yet to be run.

        At least the last one is, because its logits are wanted.
        """
        shared = common_prefix(self._ids, ids[:-1]) if isinstance(self.runner, SeekableRunner) else 0
        self._go_to(shared)
        return list(ids[shared:])

    def restore(self, ids: Sequence[int]) -> None:
        """Take the first slots, which the caller has filled, for these tokens; the runner must be seekable."""
        self.reset()  # what runners copied from the buffers is of the past
        self._ids = list(ids)
        self._go_to(len(self._ids))

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """Append one or more tokens; see `Runner.prefill`."""
        self._settle()
        logits = self.runner.prefill(tokens)
        self._ids.extend(tokens)
        return logits

    def decode(self, token: int) -> Logits:
        """Append one token; see `Runner.decode`."""
        self._settle()
        logits = self.runner.decode(token)
        self._ids.append(token)
        return logits

    def prefill_rows(self, tokens: Sequence[int]) -> Logits:
        """Append tokens and return the logits of each, (len(tokens), V); see `RowsRunner.prefill_rows`.

        Raises:
            UsageError: The runner returns those of the last one alone.
        """
        self._settle()
        rows = rows_of(self.runner, tokens)
        self._ids.extend(tokens)
        return rows

    def seek(self, position: int) -> None:
        """Keep the first `position` tokens, of which there are as many; the runner must be seekable."""
        self._go_to(position)

    def _settle(self) -> None:
        """Go on behind the last known id, should a call have been interrupted."""
        if self.runner.position != len(self._ids):
            self._go_to(min(len(self._ids), self.runner.position))

    def _go_to(self, position: int) -> None:
        del self._ids[position:]
        if isinstance(self.runner, SeekableRunner) and position:
            self.runner.seek(position)
        else:
            self.reset()


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
