"""Logits of every token of a text, by whatever a runner's prefill returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from helium_edge.errors import UsageError
from helium_edge.runtime.runner import Logits, RowsRunner, Runner

BLOCK = 64
"""Tokens of one call to a runner that returns all rows."""


def all_rows(runner: Runner, tokens: Sequence[int]) -> Iterator[Logits]:
    """The logits of every token of a new conversation, in order and in pieces, (R, V) each.

    A runner whose `prefill` returns all rows is asked for many tokens at once, another token by token.
    """
    runner.reset()
    first = runner.prefill(tokens[:2])
    if len(first) == 2:
        yield first
        for start in range(2, len(tokens), BLOCK):
            yield runner.prefill(tokens[start : start + BLOCK])
        return
    runner.reset()
    yield runner.prefill(tokens[:1])
    for token in tokens[1:]:
        yield runner.decode(token)[None]


def rows_of(runner: Runner, tokens: Sequence[int]) -> Logits:
    """Append tokens to a conversation and return the logits of each, (len(tokens), V).

    Raises:
        UsageError: The runner returns those of the last one alone.
    """
    rows = runner.prefill_rows(tokens) if isinstance(runner, RowsRunner) else runner.prefill(tokens)
    if len(rows) != len(tokens):
        raise UsageError(
            "the graphs of this bundle return the logits of the last token of a call alone",
            hint="load an ONNX bundle with rows=True and not static, or export with `logits: all` in the recipe",
        )
    return rows
