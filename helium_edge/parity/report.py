"""What a parity run found, and the JSON document that files, JUnit and the HTML page are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from helium_edge.parity.baseline import BaselineReport
from helium_edge.parity.document import (
    SCHEMA,
    SCHEMA_VERSION,
    CheckResult,
    CostFacts,
    Document,
    Gate,
    GreedySample,
    Level,
    LevelName,
    Levels,
    ParityDocument,
    StoreDifference,
    StoreLevel,
    Subject,
    TextFacts,
    name_elsewhere,
)
from helium_edge.parity.layer_table import LayerTable
from helium_edge.parity.oracle import OracleReport
from helium_edge.parity.statistics import Aggregate, Bucket, Histogram
from helium_edge.parity.verdict import GateResult
from helium_edge.parity.window_figures import WindowFigures
from helium_edge.schemas import plain, significant

QUESTIONS: Mapping[LevelName, str] = {
    "L0": "Does the artifact hold the integers of the quantized store?",
    "L1": "Does the graph compute what its weights say?",
    "L2": "What does quantization cost?",
    "L3": "What does the user get?",
}


@dataclass(frozen=True)
class LevelReport:
    """The outcome of a level that compares logits: L1, L2 or L3.

    Attributes:
        level: The question that was asked.
        overall: All positions.
        languages: The same per language, in the order of evaluation.
        gates: Every gate, with or without a limit; judged on `overall`.
        windows: Conversations that were run.
        caveat: What the reader must know of how the candidate was run, as that it was not its real runtime.
        histogram: KLD of all positions.
        by_position: Mean KLD along the conversation.
        by_window: Figures of each window, by which two runs are paired.
        notes: Further facts by name, as the activation rule of L1.
        processor: Of L3 on a kind of processor that is not this one; empty otherwise.
    """

    level: LevelName
    overall: Aggregate
    languages: Mapping[str, Aggregate]
    gates: tuple[GateResult, ...]
    windows: int
    caveat: str = ""
    histogram: Histogram | None = None
    by_position: tuple[Bucket, ...] = ()
    by_window: tuple[WindowFigures, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    processor: str = ""

    @property
    def failures(self) -> list[str]:
        """One line for each gate that does not hold."""
        return [gate.failure for gate in self.gates if gate.failure is not None]

    @property
    def passed(self) -> bool:
        """Whether every gate that has a limit holds."""
        return not self.failures

    def document(self) -> Level:
        """As it is written: 6 significant digits, null for what is NaN or infinite."""
        return Level(
            question=QUESTIONS[self.level],
            passed=self.passed,
            failures=tuple(self.failures),
            gates=tuple(_gate(gate) for gate in self.gates),
            caveat=self.caveat or None,
            windows=self.windows,
            tokens=self.overall.tokens,
            overall=self.overall,
            languages=dict(self.languages),
            histogram=self.histogram,
            by_position=self.by_position,
            by_window=self.by_window,
            notes=plain(dict(self.notes)),
        )


@dataclass(frozen=True)
class StoreReport:
    """The outcome of L0: every tensor of every graph against the quantized store, bit for bit.

    Attributes:
        tensors: Number compared.
        differences: Those that differ.
    """

    tensors: int
    differences: tuple[StoreDifference, ...]
    level: LevelName = "L0"

    @property
    def failures(self) -> list[str]:
        """One line for each tensor that differs."""
        return [f"{found.tensor}: {found.detail}" for found in self.differences]

    @property
    def passed(self) -> bool:
        """Whether all are equal."""
        return not self.differences

    def document(self) -> StoreLevel:
        """As it is written."""
        return StoreLevel(
            question=QUESTIONS["L0"],
            passed=self.passed,
            failures=tuple(self.failures),
            tensors=self.tensors,
            differences=self.differences,
        )


@dataclass(frozen=True)
class Cost:
    """Where the time went, in seconds.

    Attributes:
        wall: All of it.
        forward: Inside forward passes, by who ran: `reference`, `quantized torch`, `candidate`.
        cached_reference: The reference's logits came from the disk.
    """

    wall: float
    forward: Mapping[str, float]
    cached_reference: bool = False

    @property
    def overhead(self) -> float:
        """Share of the time outside forward passes and loading."""
        return max(0.0, 1 - sum(self.forward.values()) / self.wall) if self.wall > 0 else 0.0


@dataclass(frozen=True)
class ParityReport:
    """A whole run.

    Attributes:
        levels: The levels that were run, in order.
        elsewhere: L3 as other processors compute.
        checks: The cache contract.
        greedy: Continuations side by side.
        subject: What was compared: bundle, recipe, target, runtime, files with sizes.
        environment: Versions, processor, threads.
        text: Source, languages, windows, tokens and sha256 of the text.
        cost: Where the time went; not in `figures`, which are the same for the same input.
        layers: The table of the localisation; None when it was not made.
        oracle: The second oracle's comparison; None when it was not asked for.
        baseline: Comparison with an earlier report; None when none was given.
    """

    levels: tuple[StoreReport | LevelReport, ...]
    elsewhere: tuple[LevelReport, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    greedy: tuple[GreedySample, ...] = ()
    subject: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost | None = field(default=None, compare=False)
    layers: LayerTable | None = None
    oracle: OracleReport | None = None
    baseline: BaselineReport | None = None

    @property
    def failures(self) -> list[str]:
        """One line for each thing that does not hold, the level or `cache` in front."""
        lines = [f"{level.level} {failure}" for level in self.levels for failure in level.failures]
        lines += [f"{name_elsewhere(one.processor)} {line}" for one in self.elsewhere for line in one.failures]
        lines += [f"cache: {check.name}: {check.detail}" for check in self.checks if not check.passed]
        lines += [f"L1 {failure}" for failure in (self.layers.failures if self.layers else ())]
        return lines + (self.baseline.failures if self.baseline else [])

    @property
    def passed(self) -> bool:
        """Whether everything holds."""
        return not self.failures

    def level(self, name: LevelName) -> StoreReport | LevelReport | None:
        """A level, if it was run."""
        return next((level for level in self.levels if level.level == name), None)

    def to_json(self) -> Document:
        """The document: see docs/parity.md and `parity.document`."""
        cost = self.cost
        return ParityDocument(
            schema=SCHEMA,
            schema_version=SCHEMA_VERSION,
            passed=self.passed,
            failures=tuple(self.failures),
            subject=Subject(**plain(dict(self.subject))),
            environment=plain(dict(self.environment)),
            text=TextFacts(**plain(dict(self.text))),
            levels=Levels(**{level.level: level.document() for level in self.levels}),  # type: ignore[typeddict-item]
            elsewhere={level.processor: level.document() for level in self.elsewhere},
            checks=self.checks,
            greedy=self.greedy,
            layers=None if self.layers is None else self.layers.document(),
            oracle=None if self.oracle is None else self.oracle.to_json(),
            baseline=None if self.baseline is None else self.baseline.document(),
            cost=None if cost is None else CostFacts(**asdict(cost), overhead=cost.overhead),
        ).to_json()

    def summary(self) -> dict[str, Any]:
        """The few figures that a bundle's manifest carries: 3 significant digits, null for NaN or infinite."""
        found = self.level("L3")
        assert isinstance(found, LevelReport)
        overall = found.overall
        figures = {
            "mean_kld": overall.kld_mean,
            "mean_kld_se": overall.kld_mean_se,
            "top1": overall.top1,
            "top1_decided": overall.top1_decided,
            "ppl_ratio": overall.ppl_ratio,
            "max_logit_error": overall.max_logit_error,
        }
        return {
            "level": "L3",
            "passed": self.passed,
            "levels": [level.level for level in self.levels],
            "tokens": overall.tokens,
            "languages": list(found.languages),
            **({"caveat": found.caveat} if found.caveat else {}),
            **{name: significant(value, 3) for name, value in figures.items()},
        }


def _gate(gate: GateResult) -> Gate:
    return Gate(
        name=gate.name,
        measured=float(gate.measured),  # a count of what is not finite is one too
        standard_error=float(gate.standard_error),
        bound=gate.bound,
        limit=gate.limit,
        passed=gate.passed,
    )
