"""Prompt lookup decoding: several tokens from one call, without a second model.

Where the last tokens of a text have stood in it before, what followed then is a guess at what follows now. A guess
of k tokens is run together with the token before it, in one call that takes little longer than a step while
decoding waits for memory, and returns the logits of all of them. Each token is then chosen from its own logits, by
whatever chooses tokens; where the choice is the guess, its step has been done already. What is generated is what
single steps would generate, up to how kernels round one row and several.

Source: Saxena, Prompt Lookup Decoding (https://github.com/apoorvumang/prompt-lookup-decoding); the acceptance by
comparison is that of Leviathan et al., https://arxiv.org/abs/2211.17192, for a draft without probabilities.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from helium_edge.runtime.runner import Logits, RowsRunner

MOST_GUESSED = 7
"""Tokens of a guess where nothing else is asked for; with the token before them a prefill method of 8 is full."""

_FIRST = 2
"""Tokens of the first guess: each that is right throughout doubles the next, since a call of a few tokens costs
little where the guess is wrong."""

_LONGEST, _SHORTEST = 4, 2
"""Tokens that must have stood together before; longer ones are looked for first."""

_TRIED = 3
"""Guesses from which on their worth is judged."""

_REST, _LONGEST_REST = 16, 256
"""Tokens without a guess once guesses do not pay; doubled each time."""

_MEMORY = 0.8
"""Share of the past in the running means of times and tokens."""


class NgramLookup:
    """Finds where the last tokens of a text have stood before."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._follows: dict[tuple[int, ...], int] = {}

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens to the text."""
        for token in tokens:
            # What ends at the last token is known by what follows it, so that it is entered one token later.
            for length in range(_SHORTEST, min(_LONGEST, len(self._ids)) + 1):
                self._follows[tuple(self._ids[-length:])] = len(self._ids)
            self._ids.append(token)

    def guess(self, most: int) -> list[int]:
        """At most `most` tokens that followed where the text's end last stood; none where it never did."""
        for length in range(min(_LONGEST, len(self._ids)), _SHORTEST - 1, -1):
            found = self._follows.get(tuple(self._ids[-length:]))
            if found is not None:
                return self._ids[found : found + most]
        return []


class Worth:
    """Whether guesses pay, by the time that calls take; while they do not, it lets some tokens pass without.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._step: float | None = None
        self._call: float | None = None
        self._gain = 1.0
        self._tried = 0
        self._rest, self._resting = _REST, 0

    def wants_guess(self) -> bool:
        """Whether a guess is to be made for the next token; there is a step to compare with first."""
        if self._resting:
            self._resting -= 1
            return False
        return self._step is not None

    def stepped(self, seconds: float) -> None:
        """A single step took so long."""
        self._step = _mean(self._step, seconds)

    def guessed(self, seconds: float, tokens: int) -> None:
        """A call with a guess took so long and gave so many tokens, at least 1."""
        self._call, self._gain = _mean(self._call, seconds), _mean(self._gain, tokens)
        self._tried += 1
        if self._step is None or self._tried < _TRIED:
            return
        if self._gain * self._step < self._call:
            self._resting, self._rest = self._rest, min(2 * self._rest, _LONGEST_REST)
            self._call, self._gain, self._tried = None, 1.0, 0
        elif tokens > 1:
            self._rest = _REST


class LookaheadRunner:
    """A `Runner` that runs guesses together with the token before them.

    Between calls the cache may hold guesses that nobody has chosen; `position` counts those that were.

    Args:
        runner: Returns the logits of several tokens from one call.
        context: Ids that are in its cache already.
        most: Most tokens of a guess; the first are shorter.
        worth: Says when to guess.

    Attributes:
        calls: Calls of the graph after the prompt.
        guessed: Tokens that were guessed.
        accepted: Those of them that were chosen.
    """

    def __init__(
        self, runner: RowsRunner, context: Sequence[int], most: int = MOST_GUESSED, worth: Worth | None = None
    ) -> None:
        self.vocab_size, self.cache_len = runner.vocab_size, runner.cache_len
        self.calls = self.guessed = self.accepted = 0
        self._runner = runner
        self._most = most
        self._worth = worth or Worth()
        self._lookup = NgramLookup()
        self._lookup.extend(context)
        self._position = runner.position
        self._ready: list[tuple[int, Logits]] = []  # guesses in the cache, each with the logits that follow it
        self._open: tuple[float, int] | None = None  # time and tokens of the call whose guesses are being chosen
        self._length = min(_FIRST, most)  # tokens of the next guess
        self._asked = 0  # tokens of the last one

    @property
    def position(self) -> int:
        """Tokens in the cache that are part of the text."""
        return self._position

    def reset(self) -> None:
        """Start a new conversation."""
        self._ready.clear()
        self._open = None
        self._lookup = NgramLookup()
        self._runner.reset()
        self._position = 0

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """Append tokens; see `Runner.prefill`."""
        self.settle()
        logits = self._runner.prefill(tokens)
        self._lookup.extend(tokens)
        self._position = self._runner.position
        return logits

    def decode(self, token: int) -> Logits:
        """Append one token and return its logits, (V,), which may have been computed already."""
        if self._ready and self._ready[0][0] == token:
            _, row = self._ready.pop(0)
            self.accepted += 1
            self._position += 1
            self._lookup.extend([token])
            if self._open is not None:
                self._open = self._open[0], self._open[1] + 1
            return row
        self.settle()
        self._lookup.extend([token])
        room = self.cache_len - self._position - 1
        guess = self._lookup.guess(min(self._length, room)) if room > 0 and self._worth.wants_guess() else []
        start = self._worth.clock()
        if guess:
            rows = self._runner.prefill_rows([token, *guess])
            self._ready = list(zip(guess, rows[1:], strict=True))
            self.guessed += len(guess)
            self._open, self._asked = (self._worth.clock() - start, 1), len(guess)
            row = rows[0]
        else:
            row = self._runner.decode(token)
            self._worth.stepped(self._worth.clock() - start)
        self.calls += 1
        self._position += 1
        return row

    def settle(self) -> None:
        """Take guesses that nobody has chosen out of the cache."""
        if self._open is not None:
            self._worth.guessed(*self._open)
            right = self._open[1] - 1
            longer = 2 * self._length if right == self._asked else max(_FIRST, right + 1)
            self._length = min(longer, self._most)
            self._open = None
        self._ready.clear()
        if self._runner.position != self._position:
            self._runner.seek(self._position)


def _mean(before: float | None, now: float) -> float:
    return now if before is None else _MEMORY * before + (1 - _MEMORY) * now
