"""Teacher-forced rollout: two runners over the same tokens, and the pairs of logits rows that come of it.

The candidate is run as a phone runs it: a prompt with a ragged tail in chunks, then one decode call for every true
token. The reference may answer in larger pieces, because only its rows matter; in float32 they agree with its own
decode steps to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from helium_edge.errors import ParityError, UsageError
from helium_edge.runtime.runner import Logits, Runner

MIN_WINDOW = 3
"""Shortest window: one token to prefill, one to decode, one to predict."""

_BLOCK = 64
"""Rows held at once per runner while decoding; also the piece that the reference takes in one call."""


@dataclass(frozen=True, eq=False)
class Block:
    """Logits of consecutive positions.

    Attributes:
        start: Position of the first row: the row of position i predicts token i + 1.
        reference: (R, V).
        candidate: (R, V).
        targets: The R true tokens that follow.
    """

    start: int
    reference: Logits
    candidate: Logits
    targets: tuple[int, ...]

    @property
    def end(self) -> int:
        """Position after the last row: the number of tokens that were fed so far."""
        return self.start + len(self.targets)


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


def rollout(
    candidate: Runner, reference: Runner, tokens: Sequence[int], *, prefill_tokens: int
) -> Iterator[Block]:
    """Run both over one window, as a new conversation, and yield what is to be compared, in order of position.

    All positions up to the last but one are fed. Rows of the prompt are compared at every position when both
    runners return them, else at its last position; every later position is compared.

    Raises:
        UsageError: Fewer than `MIN_WINDOW` tokens.
        ParityError: A runner returns logits of another shape than its protocol says.
        HeliumEdgeError: Whatever the runners raise.
    """
    if len(tokens) < MIN_WINDOW:
        raise UsageError(f"a window of {len(tokens)} tokens is too short to compare; at least {MIN_WINDOW}")
    candidate.reset()
    reference.reset()
    split = prefill_split(len(tokens), prefill_tokens)
    ours = _rows("candidate", candidate.prefill(tokens[:split]), split, candidate.vocab_size)
    theirs = _rows("reference", reference.prefill(tokens[:split]), split, reference.vocab_size)
    rows = min(len(ours), len(theirs))
    start = split - rows
    yield Block(start, theirs[-rows:], ours[-rows:], tuple(tokens[start + 1 : split + 1]))
    in_pieces = len(theirs) == split > 1  # it returns all rows, so one call gives those of many tokens
    for start in range(split, len(tokens) - 1, _BLOCK):
        piece = tokens[start : min(start + _BLOCK, len(tokens) - 1)]
        theirs = (
            _rows("reference", reference.prefill(piece), len(piece), reference.vocab_size)
            if in_pieces
            else _decode("reference", reference, piece)
        )
        ours = _decode("candidate", candidate, piece)
        yield Block(start, theirs, ours, tuple(tokens[start + 1 : start + 1 + len(piece)]))


def _rows(who: str, logits: Logits, tokens: int, vocab_size: int) -> Logits:
    """Logits of a prefill: one row, or one per token."""
    if logits.shape not in {(1, vocab_size), (tokens, vocab_size)}:
        raise ParityError(
            f"the {who} returned logits {logits.shape} for {tokens} tokens; (1, {vocab_size}) or "
            f"({tokens}, {vocab_size}) is right"
        )
    return logits


def _decode(who: str, runner: Runner, tokens: Sequence[int]) -> Logits:
    rows = []
    for token in tokens:
        row = runner.decode(token)
        if row.shape != (runner.vocab_size,):
            raise ParityError(
                f"the {who} returned logits {row.shape} from decode; ({runner.vocab_size},) is right"
            )
        rows.append(row)
    return np.stack(rows)
