"""Log-likelihoods of given tokens, and greedy continuations, over a decoder whose cache is rewound.

Requests are answered in the order of their tokens, so that neighbours share the longest start: what two of them
share stays in the cache, few-shot examples included. Of the choice that is in the cache each row of logits is
kept, so that choices which begin alike, or are one token long, cost nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from helium_edge.errors import BundleError, CacheFullError, UsageError
from helium_edge.runtime.runner import Logits, RewindableRunner, RowsRunner
from helium_edge.runtime.token_cache import common_prefix
from helium_edge.signature import LogitsMode

BLOCK = 128
"""Tokens of one call: bounds the memory of logits, which are a row of the vocabulary for each."""

Tokens = Sequence[int]


@dataclass(frozen=True)
class Request:
    """Tokens to score.

    Attributes:
        context: What stands before, at least one token.
        choice: What is scored, at least one token.
    """

    context: tuple[int, ...]
    choice: tuple[int, ...]


@dataclass(frozen=True)
class ChoiceScore:
    """How likely a choice is.

    Attributes:
        log_probability: Of all its tokens, nats.
        greedy: Whether each token is the most likely one.
    """

    log_probability: float
    greedy: bool


@dataclass
class Counts:
    """What was run.

    Attributes:
        requests: Requests that were answered.
        asked: Tokens that they would take if each were run from the start.
        fed: Tokens that were run.
        generated: Tokens of `fed` that the model chose itself.
    """

    requests: int = 0
    asked: int = 0
    fed: int = 0
    generated: int = 0

    @property
    def saved(self) -> int:
        """Tokens that were in the cache already."""
        return self.asked - self.fed


class Stopper(Protocol):
    """Looks at a continuation while it grows."""

    def push(self, token: int) -> bool:
        """Take the next token; false ends the continuation, and the token is not fed back."""
        ...


class Scorer:
    """Scores tokens on a runner, which is the scorer's alone while it is used.

    Args:
        runner: The decoder. One that is a `RowsRunner` is asked for the rows it needs.
        logits: What its `prefill` returns: a row per token, or the last row alone; of the latter, where no rows
            can be asked for, choices are decoded.
        reuse: Keep what is in the cache; False runs every request from the start, for comparison.
        block: Most tokens of one call.
    """

    def __init__(
        self, runner: RewindableRunner, logits: LogitsMode, *, reuse: bool = True, block: int = BLOCK
    ) -> None:
        self.counts = Counts()
        self.cache_len = runner.cache_len
        self._runner = runner
        self._logits = logits
        self._reuse = reuse
        self._block = block
        self._path: list[int] = []
        self._rows: dict[int, Logits] = {}

    def release(self) -> None:
        """Let go of the runner, which gives its memory back; the counts stay."""
        del self._runner
        self._rows = {}

    def score(
        self, requests: Sequence[Request], on_request: Callable[[], None] = lambda: None
    ) -> list[ChoiceScore]:
        """Score requests.

        Args:
            requests: In any order.
            on_request: Called after each.

        Returns:
            In the order of the requests.

        Raises:
            UsageError: A request without context or choice.
            CacheFullError: One that does not fit in the cache.
            BundleError: The model returns other rows than it says, or logits that are not finite.
        """
        for request in requests:
            self._check(request)
        found: list[ChoiceScore | None] = [None] * len(requests)
        for index in self._order([(request.context, request.choice) for request in requests]):
            request = requests[index]
            rows = self._rows_of(request.context, request.choice)
            parts = [log_probability(row, token) for row, token in zip(rows, request.choice, strict=True)]
            found[index] = ChoiceScore(sum(part for part, _ in parts), all(greedy for _, greedy in parts))
            on_request()
        return [each for each in found if each is not None]

    def score_choices(self, context: Tokens, choices: Sequence[Tokens]) -> list[ChoiceScore]:
        """Score the choices of one context; see `score`."""
        return self.score([Request(tuple(context), tuple(choice)) for choice in choices])

    def rolling(self, context: Tokens, tokens: Tokens) -> float:
        """Log-probability of a long run of tokens after a context, nats; its rows are not kept.

        Raises:
            UsageError: No context or no tokens.
            CacheFullError: They do not fit in the cache.
            BundleError: As of `score`.
        """
        request = Request(tuple(context), tuple(tokens))
        self._check(request)
        total, scored = 0.0, 0
        self._begin(asked=len(context) + len(tokens) - 1)
        first = len(context) - 1
        self._go_to(min(common_prefix(self._path, request.context), first))
        (row,) = self._feed(request.context[len(self._path) :], every=False)
        total += log_probability(row, tokens[0])[0]
        for start in range(0, len(tokens) - 1, self._block):
            piece = tokens[start : min(start + self._block, len(tokens) - 1)]
            for row in self._feed(piece, every=True):
                scored += 1
                total += log_probability(row, tokens[scored])[0]
        return total

    def generate(
        self, contexts: Sequence[Tokens], most: int, stopper: Callable[[int], Stopper]
    ) -> Iterator[tuple[int, list[int]]]:
        """Continue contexts greedily.

        Args:
            contexts: In any order.
            most: Upper bound of the new tokens of each.
            stopper: Makes what ends the continuation of the context of an index.

        Returns:
            Index and new tokens of each context, in the order in which they are run; what the stopper refused
            is not in.

        Raises:
            UsageError: An empty context.
            CacheFullError: A context and its new tokens do not fit.
            BundleError: As of `score`.
        """
        for context in contexts:
            self._check(Request(tuple(context), (0,) * most))
        for index in self._order([(tuple(context), ()) for context in contexts]):
            yield index, self._continue(tuple(contexts[index]), most, stopper(index))

    def _continue(self, context: tuple[int, ...], most: int, stopper: Stopper) -> list[int]:
        self._begin(asked=len(context))
        row = self._rows_of_context(context)
        new: list[int] = []
        while True:
            if not np.isfinite(row).all():
                raise _not_finite()
            token = int(row.argmax())
            if not stopper.push(token):
                return new
            new.append(token)
            if len(new) == most:
                return new
            row = self._runner.decode(token)
            self._path.append(token)
            self.counts.fed += 1
            self.counts.asked += 1
            self.counts.generated += 1

    def _order(self, keys: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[int]:
        """A walk over the trie of all requests, or the order in which they came."""
        indices = range(len(keys))
        return sorted(indices, key=keys.__getitem__) if self._reuse else list(indices)

    def _check(self, request: Request) -> None:
        if not request.context or not request.choice:
            raise UsageError("a context and a choice of at least one token each are needed")
        needed = len(request.context) + len(request.choice) - 1
        if needed > self.cache_len:
            raise CacheFullError(f"{needed} tokens do not fit: the KV cache has {self.cache_len} slots")

    def _begin(self, *, asked: int) -> None:
        self.counts.requests += 1
        self.counts.asked += asked
        if not self._reuse:
            self._go_to(0)

    def _rows_of_context(self, context: tuple[int, ...]) -> Logits:
        """The row behind a context."""
        return self._rows_of(context, (0,), begun=True)[0]

    def _rows_of(self, context: tuple[int, ...], choice: tuple[int, ...], *, begun: bool = False) -> list[Logits]:
        """The row that predicts each token of a choice; the last token is never fed."""
        fed = context + choice[:-1]
        if not begun:
            self._begin(asked=len(fed))
        first = len(context) - 1
        shared = common_prefix(self._path, fed)
        known = all(at in self._rows for at in range(first, shared))
        self._go_to(shared if known else first)
        # Rows of another context are of no use any more.
        self._rows = {at: row for at, row in self._rows.items() if at >= first}
        if len(self._path) <= first:
            (self._rows[first],) = self._feed(fed[len(self._path) : first + 1], every=False)
        rest = fed[len(self._path) :]
        start = len(self._path)
        for at, row in enumerate(self._feed(rest, every=True) if rest else (), start=start):
            self._rows[at] = row
        return [self._rows[at] for at in range(first, len(fed))]

    def _go_to(self, position: int) -> None:
        """Forget what the cache holds from a position on."""
        if position < len(self._path) or self._runner.position != len(self._path):
            self._runner.seek(position)
            del self._path[position:]
            self._rows = {at: row for at, row in self._rows.items() if at < position}

    def _feed(self, tokens: Tokens, *, every: bool) -> list[Logits]:
        """Run tokens behind those in the cache; the row of each, or the last one alone."""
        rows: list[Logits] = []
        for start in range(0, len(tokens), self._block):
            piece = tokens[start : start + self._block]
            found = self._run(piece, every=every)
            self._path.extend(piece)
            self.counts.fed += len(piece)
            rows = [*rows, *found] if every else found[-1:]
        return rows

    def _run(self, tokens: Tokens, *, every: bool) -> list[Logits]:
        if every and isinstance(self._runner, RowsRunner):
            return self._checked(self._runner.prefill_rows(tokens), len(tokens))
        if every and self._logits == "last":
            return [self._runner.decode(token) for token in tokens]
        found = self._runner.prefill(tokens)
        return self._checked(found, len(tokens) if self._logits == "all" else 1)

    @staticmethod
    def _checked(rows: Logits, expected: int) -> list[Logits]:
        """Rows that are as many as they should be: fewer would be scored as if they were the first ones."""
        if len(rows) != expected:
            raise BundleError(f"the model returns {len(rows)} rows of logits where {expected} belong")
        return list(rows)


def log_probability(row: Logits, token: int) -> tuple[float, bool]:
    """Log-probability of a token by a row of logits, (V,), in nats; and whether it is the most likely one.

    Raises:
        BundleError: A logit is not finite.
    """
    top = float(row.max())
    if not math.isfinite(top):
        raise _not_finite()
    shifted = row.astype(np.float64) - top
    found = float(shifted[token] - np.log(np.exp(shifted).sum()))
    if not math.isfinite(found):
        raise _not_finite()
    return found, int(row.argmax()) == token


def _not_finite() -> BundleError:
    return BundleError(
        "the model returns logits that are not finite", hint="`helium-edge parity` tells where they come from"
    )
