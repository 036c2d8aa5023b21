"""The golden trace on ARM64, judged as any other host is (docs/bundle.md, "Check your loop")."""

from __future__ import annotations

from collections.abc import Sequence

from arm64.compare import CallResult
from arm64.script import Call, conversation_calls
from helium_edge.bundle import GoldenCheck, GoldenTrace, Manifest, check_golden
from helium_edge.runtime.runner import Logits


def golden_calls(manifest: Manifest, trace: GoldenTrace) -> list[Call]:
    """The prompt in chunks, then every recorded token but the last."""
    return conversation_calls(manifest, trace.prompt_ids, trace.greedy_ids[:-1])


def judge_golden(trace: GoldenTrace, results: Sequence[CallResult]) -> GoldenCheck:
    """Compare what the calls gave with the trace.

    Raises:
        ParityError: A logit of the first row, or the choice of a step, is off by more than the tolerance of other
            kernels; a bundle that says none (manifest 1.4 and before) is held to no difference.
    """
    tolerance = trace.tolerances.other if trace.tolerances is not None else 0.0
    return check_golden(_Replayed(trace, results), trace, tolerance)


class _Replayed:
    """A runner whose answers are there already: those behind the prompt, and behind each token of the trace."""

    vocab_size = cache_len = 0

    def __init__(self, trace: GoldenTrace, results: Sequence[CallResult]) -> None:
        steps = len(trace.greedy_ids) - 1
        self._rows = [result.logits for result in results[len(results) - steps - 1 :]]
        self.position = 0

    def reset(self) -> None:
        self.position = 0

    def prefill(self, tokens: Sequence[int]) -> Logits:
        self.position = len(tokens)
        return self._rows[0]

    def decode(self, token: int) -> Logits:  # noqa: ARG002 - the trace's own is what was run
        self.position += 1
        row: Logits = self._rows.pop(1)[-1]
        return row
