"""Runs a candidate against a reference over windows of text and judges the outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from helium_edge.errors import ParityError, UsageError
from helium_edge.parity.metrics import Positions, aggregate, compare_rows
from helium_edge.parity.report import ParityReport
from helium_edge.parity.rollout import rollout
from helium_edge.parity.text import Window
from helium_edge.parity.verdict import judge
from helium_edge.recipe import Gates
from helium_edge.runtime.runner import Runner

Progress = Callable[[int, int], None]
"""Called with the tokens that were run so far and the tokens in all."""


def run_parity(
    candidate: Runner,
    reference: Runner,
    windows: Sequence[Window],
    *,
    gates: Gates,
    prefill_tokens: int,
    level: str = "L3",
    on_progress: Progress | None = None,
) -> ParityReport:
    """Compare two runners on text; a figure outside its gate is a failure in the report, not an exception.

    Args:
        candidate: What is checked.
        reference: What it is checked against; fastest when its `prefill` returns a row per token.
        windows: The text; each window is a conversation of its own.
        gates: The limits of the recipe.
        prefill_tokens: Tokens of one prefill chunk of the candidate, so that prompts have a ragged tail.
        level: The question that is asked: `L3` compares an exported graph with the original.
        on_progress: Called as tokens are run.

    Raises:
        UsageError: No windows, or one that is too short or does not fit a cache.
        ParityError: The two have different vocabularies, or logits of the wrong shape, or the reference is not
            finite.
        HeliumEdgeError: Whatever the runners raise.
    """
    _check(candidate, reference, windows, prefill_tokens)
    started = time.perf_counter()
    total = sum(len(window.tokens) - 1 for window in windows)
    done = 0
    found: dict[str, list[Positions]] = {}
    for window in windows:
        parts = found.setdefault(window.language, [])
        for block in rollout(candidate, reference, window.tokens, prefill_tokens=prefill_tokens):
            parts.append(compare_rows(block.reference, block.candidate, block.targets))
            if on_progress is not None:
                on_progress(done + block.end, total)
        done += len(window.tokens) - 1
    overall = aggregate(
        Positions.concatenate([part for parts in found.values() for part in parts]), near_tie=gates.near_tie
    )
    return ParityReport(
        level=level,
        overall=overall,
        languages={
            language: aggregate(Positions.concatenate(parts), near_tie=gates.near_tie)
            for language, parts in found.items()
        },
        gates=judge(gates, overall),
        windows=len(windows),
        seconds=time.perf_counter() - started,
        caveat=getattr(candidate, "caveat", ""),
    )


def _check(candidate: Runner, reference: Runner, windows: Sequence[Window], prefill_tokens: int) -> None:
    if not windows:
        raise UsageError("no windows of text to compare on")
    if prefill_tokens < 1:
        raise UsageError(f"a prefill chunk of {prefill_tokens} tokens is not possible")
    if candidate.vocab_size != reference.vocab_size:
        raise ParityError(
            f"the candidate has a vocabulary of {candidate.vocab_size}, the reference of {reference.vocab_size}",
            hint="compare a bundle with the checkpoint that it was exported from",
        )
    longest = max(len(window.tokens) for window in windows)
    slots = min(candidate.cache_len, reference.cache_len)
    if longest > slots:
        raise UsageError(f"a window of {longest} tokens does not fit a KV cache of {slots} slots")
