"""One level of parity between two runners."""

from __future__ import annotations

from collections.abc import Sequence

from helium_edge.parity import Clock, Comparison, LevelReport, LogitsStore, Reference
from helium_edge.progress import SILENT, Progress
from helium_edge.recipe import Gates
from helium_edge.runtime.runner import Runner
from helium_edge.texts import Window


def run_level(
    candidate: Runner,
    reference: Runner,
    windows: Sequence[Window],
    *,
    gates: Gates,
    prefill_tokens: int | Sequence[int],
    progress: Progress = SILENT,
) -> LevelReport:
    """L3 alone: the candidate against the reference."""
    logits = Reference(LogitsStore(None, {}), lambda: reference, candidate.vocab_size, Clock())
    widths = [prefill_tokens] if isinstance(prefill_tokens, int) else prefill_tokens
    (level,) = Comparison(candidate, logits, windows, gates, widths).run(progress)
    return level
