"""Teacher-forced rollout: a runner over a conversation, as a phone runs it, in steps that can be compared.

A prompt with a ragged tail is prefilled in chunks, then every true token is decoded by a call of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from helium_edge.errors import ParityError, UsageError
from helium_edge.runtime.chunks import next_width
from helium_edge.runtime.runner import CachedRunner, Logits, Runner
from helium_edge.signature import Phase

MIN_WINDOW = 3
"""Shortest window: one token to prefill, one to decode, one to predict."""

BLOCK = 64
"""Decoded rows held at once."""


@dataclass(frozen=True, eq=False)
class Step:
    """What a runner gave for consecutive tokens of a conversation, whatever its calls were.

    Attributes:
        start: Position of the first token.
        tokens: T ids.
        logits: (R, V) of the last R tokens.
        cache: Key and value of each layer in turn, each (Hkv, S, D) as the runner holds it after the call; empty
            where it shows none.
        phase: `prefill` of all tokens, or `decode` of one after the other.
    """

    start: int
    tokens: tuple[int, ...]
    logits: Logits
    cache: Sequence[npt.NDArray[Any]] = ()
    phase: Phase = "decode"

    @property
    def end(self) -> int:
        """Position after the last token."""
        return self.start + len(self.tokens)

    @property
    def first_row(self) -> int:
        """Position of the first row of logits."""
        return self.end - len(self.logits)


def prefill_split(length: int, prefill_tokens: int) -> int:
    """Number of tokens of a window to prefill: about a third, whole chunks and an odd remainder.

    A window too short for a chunk and a tail within two thirds gets one padded chunk of a third.

    Args:
        length: Tokens of the window, at least `MIN_WINDOW`.
        prefill_tokens: Tokens of one prefill chunk of the candidate.
    """
    third, most = length // 3, 2 * length // 3
    chunks = max(1, third // prefill_tokens)
    remainder = min(prefill_tokens - 1, most - chunks * prefill_tokens, max(1, prefill_tokens // 3))
    if remainder < 1:
        return max(1, third)
    return chunks * prefill_tokens + (remainder - 1 + remainder % 2)


def split_of_turn(length: int, widths: Sequence[int], turn: int) -> int:
    """Number of tokens of a window to prefill, such that graphs take turns in running the last chunk.

    Its logits are all that a prompt gives: a graph that runs other chunks alone would be judged by its rows of the
    cache.

    Args:
        length: Tokens of the window, at least `MIN_WINDOW`.
        widths: Tokens of each prefill graph of the candidate, ascending.
        turn: Number of the window. A graph that it has no room for is left out.
    """
    if len(widths) == 1:
        return prefill_split(length, widths[0])
    width, widest = widths[-1 - turn % len(widths)], widths[-1]
    ragged = (
        count for count in range(max(2, width // 3), width + 1)
        if count % 2 and next_width(widths, count, length) == width
    )  # fmt: skip
    tail = next(ragged, width)
    for lead in (max(1, length // 3 // widest) * widest, 0):
        if lead + tail <= 2 * length // 3:
            return lead + tail
    return prefill_split(length, widest)


def rollout(runner: Runner, tokens: Sequence[int], *, widths: Sequence[int], turn: int = 0) -> Iterator[Step]:
    """Run a window as a new conversation, all tokens but the last, which only is predicted.

    Args:
        runner: The candidate.
        tokens: The window.
        widths: Tokens of each of its prefill graphs, ascending.
        turn: See `split_of_turn`.

    Raises:
        UsageError: Fewer than `MIN_WINDOW` tokens.
        ParityError: The runner returns logits of another shape than its protocol says.
        HeliumEdgeError: Whatever the runner raises.
    """
    if len(tokens) < MIN_WINDOW:
        raise UsageError(f"a window of {len(tokens)} tokens is too short to compare; at least {MIN_WINDOW}")
    runner.reset()
    split = split_of_turn(len(tokens), widths, turn)
    yield prefill_step(runner, tokens[:split], 0)
    for start in range(split, len(tokens) - 1, BLOCK):
        yield decode_step(runner, tokens[start : min(start + BLOCK, len(tokens) - 1)], start)


def prefill_step(runner: Runner, tokens: Sequence[int], start: int) -> Step:
    """One prefill call of tokens whose first belongs at `start`."""
    logits = runner.prefill(tokens)
    if logits.shape not in {(1, runner.vocab_size), (len(tokens), runner.vocab_size)}:
        raise ParityError(
            f"the candidate returned logits {logits.shape} for {len(tokens)} tokens; (1, {runner.vocab_size}) or "
            f"({len(tokens)}, {runner.vocab_size}) is right"
        )
    return Step(start, tuple(tokens), logits, _cache(runner), "prefill")


def decode_step(runner: Runner, tokens: Sequence[int], start: int) -> Step:
    """A decode call for each token, the first of which belongs at `start`."""
    rows = []
    for token in tokens:
        row = runner.decode(token)
        if row.shape != (runner.vocab_size,):
            raise ParityError(
                f"the candidate returned logits {row.shape} from decode; ({runner.vocab_size},) is right"
            )
        rows.append(row)
    return Step(start, tuple(tokens), np.stack(rows), _cache(runner))


def _cache(runner: Runner) -> Sequence[npt.NDArray[Any]]:
    return runner.cache_buffers if isinstance(runner, CachedRunner) else ()
