"""One level of parity between two runners."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from helium_edge.parity import Clock, Comparison, LevelReport, LogitsStore, Reference, Window
from helium_edge.recipe import Gates
from helium_edge.runtime.runner import Runner


def run_level(
    candidate: Runner,
    reference: Runner,
    windows: Sequence[Window],
    *,
    gates: Gates,
    prefill_tokens: int | Sequence[int],
    on_progress: Callable[[int], None] = lambda _: None,
) -> LevelReport:
    """L3 alone: the candidate against the reference."""
    logits = Reference(LogitsStore(None, {}), lambda: reference, candidate.vocab_size, Clock())
    widths = [prefill_tokens] if isinstance(prefill_tokens, int) else prefill_tokens
    (level,) = Comparison(candidate, logits, windows, gates, widths).run(on_progress)
    return level
