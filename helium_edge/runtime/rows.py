"""Logits of every token of a text, by whatever a runner's prefill returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from helium_edge.errors import UsageError
from helium_edge.runtime.runner import Logits, RowsRunner, Runner
from helium_edge.signature import LogitsMode

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
        raise _one_row()
    return rows


def check_gives_rows(runner: Runner, logits: LogitsMode) -> None:
    """Refuse graphs of which `rows_of` gets one row, before anything runs.

    Args:
        runner: Over the graphs.
        logits: Of their bundle.

    Raises:
        UsageError: They return the logits of the last token of a call alone.
    """
    if logits != "all" and not isinstance(runner, RowsRunner):
        raise _one_row()


def _one_row() -> UsageError:
    return UsageError(
        "the graphs of this bundle return the logits of the last token of a call alone",
        hint="take an ONNX bundle (in Python with rows=True and not static), or export with `logits: all`",
    )
