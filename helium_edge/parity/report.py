"""What a parity run found, and the JSON document that files, JUnit and the HTML page are made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from helium_edge.parity.statistics import Aggregate, Bucket, Histogram
from helium_edge.parity.verdict import GateResult
from helium_edge.parity.window_figures import WindowFigures

SCHEMA = "helium-edge/parity"
SCHEMA_VERSION = "2.0"

LevelName = Literal["L0", "L1", "L2", "L3"]

QUESTIONS: Mapping[LevelName, str] = {
    "L0": "Does the artifact hold the integers of the quantized store?",
    "L1": "Does the graph compute what its weights say?",
    "L2": "What does quantization cost?",
    "L3": "What does the user get?",
}


class JsonReport(Protocol):
    """A part of the report that another module makes."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        ...


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

    @property
    def failures(self) -> list[str]:
        """One line for each gate that does not hold."""
        return [gate.failure for gate in self.gates if gate.failure is not None]

    @property
    def passed(self) -> bool:
        """Whether every gate that has a limit holds."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data: 6 significant digits, null for what is NaN or infinite."""
        return {
            "question": QUESTIONS[self.level],
            "passed": self.passed,
            "failures": self.failures,
            "gates": [_gate(gate) for gate in self.gates],
            "caveat": self.caveat or None,
            "windows": self.windows,
            "tokens": self.overall.tokens,
            "overall": plain(asdict(self.overall)),
            "languages": {language: plain(asdict(figures)) for language, figures in self.languages.items()},
            "histogram": None if self.histogram is None else plain(asdict(self.histogram)),
            "by_position": [plain(asdict(bucket)) for bucket in self.by_position],
            "by_window": [plain(asdict(window)) for window in self.by_window],
            "notes": plain(dict(self.notes)),
        }


@dataclass(frozen=True)
class StoreDifference:
    """One tensor of the artifact that is not what the store says: its name, what differs, and where."""

    tensor: str
    detail: str


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

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "question": QUESTIONS["L0"],
            "passed": self.passed,
            "failures": self.failures,
            "tensors": self.tensors,
            "differences": [asdict(found) for found in self.differences],
        }


@dataclass(frozen=True)
class CheckResult:
    """One check of the cache contract on the real runtime.

    Attributes:
        name: What must hold, as a short sentence: `prefill equals decode`.
        measured: Largest relative difference found, or what `detail` says.
        limit: Largest that passes; None where the check is yes or no.
        passed: Whether it holds.
        detail: What was run, or what went wrong and where; one line.
    """

    name: str
    measured: float
    limit: float | None
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class GreedySample:
    """Greedy continuations of one prompt, side by side.

    Attributes:
        language: Of the prompt.
        prompt: Its text.
        reference: What the original writes.
        candidate: What the export writes.
        tokens: New tokens of each.
        first_divergence: Index of the first new token that differs; None when all agree.
        margin: There, the original's logit of its choice less that of the export's choice, over rms(logit).
        ambiguous: The margin is a near tie: no failure.
    """

    language: str
    prompt: str
    reference: str
    candidate: str
    tokens: int
    first_divergence: int | None
    margin: float | None
    ambiguous: bool


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
    checks: tuple[CheckResult, ...] = ()
    greedy: tuple[GreedySample, ...] = ()
    subject: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost | None = field(default=None, compare=False)
    layers: JsonReport | None = None
    oracle: JsonReport | None = None
    baseline: JsonReport | None = None

    @property
    def failures(self) -> list[str]:
        """One line for each thing that does not hold, the level or `cache` in front."""
        lines = [f"{level.level} {failure}" for level in self.levels for failure in level.failures]
        lines += [f"cache: {check.name}: {check.detail}" for check in self.checks if not check.passed]
        lines += [f"L1 {failure}" for failure in getattr(self.layers, "failures", ())]
        return lines + list(getattr(self.baseline, "failures", ()))

    @property
    def passed(self) -> bool:
        """Whether everything holds."""
        return not self.failures

    def level(self, name: LevelName) -> StoreReport | LevelReport | None:
        """A level, if it was run."""
        return next((level for level in self.levels if level.level == name), None)

    def to_json(self) -> dict[str, Any]:
        """The document: see docs/parity.md and parity.schema.json."""
        cost = self.cost
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "passed": self.passed,
            "failures": self.failures,
            "subject": plain(dict(self.subject)),
            "environment": plain(dict(self.environment)),
            "text": plain(dict(self.text)),
            "levels": {level.level: level.to_json() for level in self.levels},
            "checks": [plain(asdict(check)) for check in self.checks],
            "greedy": [plain(asdict(sample)) for sample in self.greedy],
            "layers": _part(self.layers),
            "oracle": _part(self.oracle),
            "baseline": _part(self.baseline),
            "cost": None if cost is None else plain({**asdict(cost), "overhead": cost.overhead}),
        }

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


def _gate(gate: GateResult) -> dict[str, Any]:
    return {
        "name": gate.name,
        "measured": significant(gate.measured, 6),
        "standard_error": significant(gate.standard_error, 6),
        "bound": gate.bound,
        "limit": gate.limit,
        "passed": gate.passed,
    }


def _part(part: JsonReport | None) -> dict[str, Any] | None:
    return None if part is None else part.to_json()


def plain(value: Any) -> Any:
    """Plain JSON data of nested mappings and sequences: floats to 6 significant digits, null for NaN, infinity."""
    if isinstance(value, float):
        return significant(value, 6)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def significant(value: float, digits: int) -> float | None:
    """Round to significant digits; None for NaN and infinity, which JSON cannot say."""
    return float(f"{value:.{digits - 1}e}") if math.isfinite(value) else None
