"""Runs the levels that compare logits, in one pass over the text; nothing but scalars of a position is kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from helium_edge.errors import ParityError, UsageError
from helium_edge.parity.document import GreedySample, LevelName
from helium_edge.parity.greedy import NEW_TOKENS, Codec, Prompt, compare_greedy, greedy_rows
from helium_edge.parity.logits_store import LogitsStore
from helium_edge.parity.metrics import Positions, compare_rows
from helium_edge.parity.report import LevelReport
from helium_edge.parity.rollout import Step, rollout
from helium_edge.parity.statistics import aggregate, along_position, histogram, paired_excess
from helium_edge.parity.verdict import (
    NOISE,
    GateResult,
    GraphLimits,
    judge_budget,
    judge_cache_cost,
    judge_consistency,
    judge_graph,
    judge_saturation,
)
from helium_edge.parity.window_figures import by_window
from helium_edge.parity.yardstick import Yardstick
from helium_edge.progress import SILENT, Progress
from helium_edge.recipe import Gates
from helium_edge.runtime.rows import all_rows
from helium_edge.runtime.runner import Logits, Runner
from helium_edge.texts import Window

"""Called with a number of tokens that were run."""


EMULATED = "emulated in torch, with the rules by which kernels round on that processor"
"""Of a level that no runtime computed."""


class Clock:
    """Seconds inside forward passes, by who ran."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def running(self, who: str) -> Iterator[None]:
        """Count the time of the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[who] = self.seconds.get(who, 0.0) + time.perf_counter() - started

    def each(self, who: str, items: Iterator[Any]) -> Iterator[Any]:
        """The items, the time to make each counted."""
        while True:
            with self.running(who):
                item = next(items, None)
            if item is None:
                return
            yield item


class Reference:
    """The original's logits, from the disk where they are known, else from the model, which is loaded once.

    Args:
        store: Where they are kept.
        load: Makes the model.
        vocab_size: V.
        clock: Counts its passes.

    Attributes:
        loaded: Whether the model was needed.
    """

    def __init__(self, store: LogitsStore, load: Callable[[], Runner], vocab_size: int, clock: Clock) -> None:
        self.vocab_size = vocab_size
        self._store = store
        self._load = load
        self._clock = clock
        self._runner: Runner | None = None
        self.loaded = False

    def prepare(self, windows: Sequence[Window], prompts: Sequence[Prompt], progress: Progress = SILENT) -> None:
        """Compute all that is not known yet, and let go of the model."""
        for window in windows:
            self.rows(window.tokens[:-1])
            progress.advance(len(window.tokens) - 1)
        for prompt in prompts:
            self.greedy(prompt.tokens, NEW_TOKENS)
        self._load, self._runner = self._known_only, None

    def rows(self, tokens: Sequence[int]) -> Logits:
        """(T, V) logits of every token of a conversation."""
        what = {"what": "rows", "tokens": list(tokens)}
        return self._store.get(what, len(tokens), self.vocab_size, lambda: self._run(all_rows, tokens))

    def greedy(self, prompt: Sequence[int], count: int) -> Logits:
        """(count, V) logits along the greedy continuation of a prompt."""
        what = {"what": "greedy", "tokens": list(prompt), "count": count}
        return self._store.get(
            what,
            count,
            self.vocab_size,
            lambda: self._run(lambda runner, ids: greedy_rows(runner, ids, count), prompt),
        )

    def _run(
        self, rows: Callable[[Runner, Sequence[int]], Iterator[Logits]], tokens: Sequence[int]
    ) -> Iterator[Logits]:
        if self._runner is None:
            with self._clock.running("loading"):
                self._runner = self._load()
            self.loaded = True
            if self._runner.vocab_size != self.vocab_size:
                raise ParityError(
                    f"the candidate has a vocabulary of {self.vocab_size}, the reference "
                    f"of {self._runner.vocab_size}",
                    hint="compare a bundle with the checkpoint that it was exported from",
                )
        yield from self._clock.each("reference", rows(self._runner, tokens))

    @staticmethod
    def _known_only() -> Runner:
        raise ParityError("the reference's logits were removed from the cache while they were in use")


@dataclass
class _Found:
    """Positions of a level by language."""

    parts: dict[str, list[Positions]] = field(default_factory=dict)

    def add(self, language: str, positions: Positions) -> None:
        self.parts.setdefault(language, []).append(positions)

    @property
    def positions(self) -> Positions:
        """All of them, language by language."""
        return Positions.concatenate([part for parts in self.parts.values() for part in parts])

    def report(
        self,
        level: LevelName,
        near_tie: float,
        windows: int,
        caveat: str = "",
        notes: Mapping[str, Any] | None = None,
    ) -> LevelReport:
        """The figures; gates are for the caller to add."""
        languages = {language: Positions.concatenate(parts) for language, parts in self.parts.items()}
        everything = self.positions
        return LevelReport(
            level=level,
            overall=aggregate(everything, near_tie=near_tie),
            languages={name: aggregate(part, near_tie=near_tie) for name, part in languages.items()},
            gates=(),
            windows=windows,
            caveat=caveat,
            histogram=histogram(everything),
            by_position=along_position(everything),
            by_window=by_window(languages, near_tie=near_tie),
            notes=notes or {},
        )


@dataclass
class _Tally:
    """What a run has found so far; `paired` is L2 at the positions of L3, `float_cache` L2 with such a cache."""

    graph: _Found = field(default_factory=_Found)
    budget: _Found = field(default_factory=_Found)
    paired: _Found = field(default_factory=_Found)
    float_cache: _Found = field(default_factory=_Found)
    user: _Found = field(default_factory=_Found)
    elsewhere: dict[str, _Found] = field(default_factory=dict)
    errors: list[npt.NDArray[np.float64]] = field(default_factory=list)
    ties: int = 0


@dataclass
class Comparison:
    """One run over text.

    Attributes:
        candidate: The exported graphs.
        reference: The original's logits.
        windows: The text; each window is a conversation of its own.
        gates: The limits of the recipe.
        widths: Tokens of each prefill graph of the candidate, ascending, so that prompts have ragged tails.
        yardstick: For L1 and L2; None runs L3 alone.
        limits: What L1 allows.
        budget: Run L2 too.
        clock: Counts forward passes.
    """

    candidate: Runner
    reference: Reference
    windows: Sequence[Window]
    gates: Gates
    widths: Sequence[int]
    yardstick: Yardstick | None = None
    limits: GraphLimits | None = None
    budget: bool = True
    clock: Clock = field(default_factory=Clock)

    def check(self) -> None:
        """Refuse what cannot be run.

        Raises:
            UsageError: No windows, or one that does not fit the cache.
        """
        if not self.windows:
            raise UsageError("no windows of text to compare on")
        if min(self.widths) < 1:
            raise UsageError(f"a prefill chunk of {min(self.widths)} tokens is not possible")
        longest = max(len(window.tokens) for window in self.windows)
        if longest > self.candidate.cache_len:
            raise UsageError(
                f"a window of {longest} tokens does not fit a KV cache of {self.candidate.cache_len} slots"
            )

    def run(self, progress: Progress = SILENT) -> list[LevelReport]:
        """Run the levels; a figure outside its gate is a failure in the report, not an exception.

        Raises:
            UsageError: See `check`.
            ParityError: Logits of the wrong shape, or a reference that is not finite.
            HeliumEdgeError: Whatever the runners raise.
        """
        self.check()
        tally = _Tally()
        for index, window in enumerate(self.windows):
            self._run_window(index, window, tally, progress)
        return self._reports(tally)

    def _run_window(self, index: int, window: Window, tally: _Tally, progress: Progress) -> None:
        expected = self.reference.rows(window.tokens[:-1])
        first: int | None = None
        steps = rollout(self.candidate, window.tokens, widths=self.widths, turn=index)
        for step in self.clock.each("candidate", steps):
            first = step.first_row if first is None else first
            tally.user.add(window.language, _compare(expected[step.first_row : step.end], step, window, index))
            if self.yardstick is not None:
                with self.clock.running("quantized torch"):
                    found = self.yardstick.compare(step)
                tally.errors.append(found.worst)
                tally.ties += int(found.ties.sum())
                # The yardstick reads the candidate's cache: what is not finite there is the candidate's fault.
                clean = np.where(np.isfinite(found.expected), found.expected, 0)
                tally.graph.add(window.language, _compare(clean, step, window, index))
            progress.advance(len(step.tokens))
        if self.yardstick is not None:
            for processor in self.yardstick.elsewhere:
                with self.clock.running("quantized torch"):
                    rows = self.yardstick.logits_elsewhere(window.tokens[:-1], processor)
                positions = compare_rows(np.asarray(expected), rows, window.tokens[1:], window=index)
                whole = tally.elsewhere.setdefault(processor, _Found())
                # At the positions that the candidate is compared at.
                whole.add(window.language, positions.select(positions.position >= (first or 0)))
        if self.yardstick is not None and self.budget:
            with self.clock.running("quantized torch"):
                plain = self.yardstick.plain_logits(window.tokens[:-1])
            positions = compare_rows(np.asarray(expected), plain, window.tokens[1:], window=index)
            tally.budget.add(window.language, positions)
            # Graphs return the last row of a prompt only: L3 lacks the others, and is compared without them.
            tally.paired.add(window.language, positions.select(positions.position >= (first or 0)))
            if self.yardstick.rounds_cache:
                with self.clock.running("quantized torch"):
                    plain = self.yardstick.plain_logits(window.tokens[:-1], round_cache=False)
                positions = compare_rows(np.asarray(expected), plain, window.tokens[1:], window=index)
                tally.float_cache.add(window.language, positions)

    def greedy(self, prompts: Sequence[Prompt], codec: Codec, eos_ids: Sequence[int]) -> list[GreedySample]:
        """Continue prompts greedily, beside the original."""
        samples = []
        for prompt in prompts:
            rows = self.reference.greedy(prompt.tokens, NEW_TOKENS)
            with self.clock.running("candidate"):
                samples.append(
                    compare_greedy(
                        prompt, rows, self.candidate, codec,
                        eos_ids=eos_ids, near_tie=self.gates.near_tie,
                    )
                )  # fmt: skip
        return samples

    def _reports(self, tally: _Tally) -> list[LevelReport]:
        near_tie, reports = self.gates.near_tie, []
        windows, caveat = len(self.windows), getattr(self.candidate, "caveat", "")
        gates = [*judge_budget(self.gates, aggregate(tally.user.positions, near_tie=near_tie))]
        if self.yardstick is not None and self.limits is not None:
            errors = np.concatenate(tally.errors)
            notes = {
                "arithmetic": self.yardstick.arithmetic.name,
                "rows": len(errors),
                "ties_turned": tally.ties,
                "within_noise": float((errors <= NOISE).mean()),
                "traced": self.yardstick.traces,
            }
            level = tally.graph.report("L1", near_tie, windows, caveat, notes)
            reports.append(replace(level, gates=judge_graph(self.limits, errors, level.overall)))
            if self.budget:
                level = tally.budget.report("L2", near_tie, windows)
                cost = (_cache_cost(self.yardstick, tally),) if self.yardstick.rounds_cache else ()
                reports.append(replace(level, gates=(*judge_budget(self.gates, level.overall), *cost)))
                excess = paired_excess(tally.paired.positions, tally.user.positions)
                gates.append(judge_consistency(self.yardstick.arithmetic, *excess))
            if self.yardstick.saturation is not None:
                gates.append(judge_saturation(self.yardstick.saturation.result()))
        reports.append(replace(tally.user.report("L3", near_tie, windows, caveat), gates=tuple(gates)))
        return [*reports, *self._elsewhere(tally)]

    def _elsewhere(self, tally: _Tally) -> Iterator[LevelReport]:
        """L3 as other processors compute, which our torch decoder emulates."""
        for processor, found in tally.elsewhere.items():
            assert self.yardstick is not None
            arithmetic = self.yardstick.elsewhere[processor]
            notes = {"arithmetic": arithmetic.name}
            level = found.report("L3", self.gates.near_tie, len(self.windows), EMULATED, notes)
            gates = judge_budget(self.gates, level.overall)
            if self.budget:
                excess = paired_excess(tally.paired.positions, found.positions)
                # Told and not judged: it is the same text, and what rounding costs has the recipe's own limit.
                gates = (*gates, replace(judge_consistency(arithmetic, *excess), limit=None))
            yield replace(level, processor=processor, gates=gates)


def _cache_cost(yardstick: Yardstick, tally: _Tally) -> GateResult:
    kind: Literal["float16", "int8"] = "float16" if yardstick.saturation is None else "int8"
    return judge_cache_cost(kind, *paired_excess(tally.float_cache.positions, tally.budget.positions))


def _compare(expected: Logits, step: Step, window: Window, index: int) -> Positions:
    targets = window.tokens[step.first_row + 1 : step.end + 1]
    return compare_rows(np.asarray(expected), step.logits, targets, window=index, start=step.first_row)
