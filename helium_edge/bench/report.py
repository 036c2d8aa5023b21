"""What a benchmark found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from helium_edge.bench.cases import Case
from helium_edge.bench.document import (
    SCHEMA,
    SCHEMA_VERSION,
    Bandwidth,
    BenchDocument,
    CaseRatio,
    EstimatedMemory,
    Load,
    Machine,
    MeasuredBundle,
    MeasureSettings,
    MemoryPoints,
    Result,
)
from helium_edge.bench.stats import Ratio, Summary


@dataclass(frozen=True)
class Timing:
    """One case of one bundle.

    Attributes:
        case: What was run.
        seconds: Of a decode step, a prompt or a text.
        bytes_read: By one decode step; None for everything else, which computes more than it reads.
    """

    case: Case
    seconds: Summary
    bytes_read: int | None = None

    @property
    def tokens_per_second(self) -> float:
        """At the median."""
        tokens = self.case.tokens if self.case.phase == "prefill" else 1
        return tokens / self.seconds.median

    def share_of(self, bandwidth: float | None) -> float | None:
        """Share of a bandwidth, in bytes per second, that the bytes and the median come to."""
        if self.bytes_read is None or not bandwidth:
            return None
        return self.bytes_read / self.seconds.median / bandwidth

    def document(self, bandwidth: float | None) -> Result:
        """As it is written."""
        shown: dict[str, Any] = {}
        if self.case.phase != "classify":
            shown["tokens_per_second"] = self.tokens_per_second
        if self.bytes_read is not None:
            shown |= {"bytes_read": self.bytes_read, "bandwidth_share": self.share_of(bandwidth)}
        return Result(
            phase=self.case.phase,
            context=self.case.context,
            tokens=self.case.tokens,
            ms=self.seconds.scaled(1e3).document(),
            **shown,
        )


@dataclass(frozen=True)
class BundleResult:
    """Everything about one bundle.

    Attributes:
        bundle: Its folder, as it was given.
        facts: Name, target, runtime, versions.
        load_seconds: From the call that loads to graphs that can run, each time in a new process.
        first_seconds: The first call after that: the prompt of the prefill graph's length, or a text.
        memory: Resident memory of the process, by point in time: `before` loading, with the graphs `ready` (each
            was run once), and with the cache `full`.
        estimate: What the manifest foretells, in bytes by part.
        timings: In the order of the cases.
    """

    bundle: str
    facts: Mapping[str, Any]
    load_seconds: Summary
    first_seconds: Summary
    memory: Mapping[str, Mapping[str, int | None]]
    estimate: Mapping[str, int]
    timings: Sequence[Timing]

    @property
    def first_token(self) -> Timing | None:
        """The prompt at an empty cache, whose time is that to the first token; of several the shortest."""
        found = [timing for timing in self.timings if timing.case.phase == "prefill" and not timing.case.context]
        return min(found, key=lambda timing: timing.case.tokens, default=None)

    def document(self, bandwidth: float | None) -> MeasuredBundle:
        """As it is written."""
        return MeasuredBundle(
            bundle=self.bundle,
            **self.facts,
            load_ms=self.load_seconds.scaled(1e3).document(),
            first_call_ms=self.first_seconds.scaled(1e3).document(),
            memory=MemoryPoints.model_validate(self.memory),
            estimated_memory=EstimatedMemory(**self.estimate),
            results=tuple(timing.document(bandwidth) for timing in self.timings),
        )


@dataclass(frozen=True)
class BenchReport:
    """A whole run.

    Attributes:
        machine: What it ran on; see `machine.facts`.
        settings: What was asked for, and what became of it.
        bandwidth: Bytes per second that the read test reached, `before` and `after`.
        load: How busy the machine was: `load_average` and `busy_share` at the start, `others_share` in the run.
        bundles: One, or the two that were compared.
        ratios: For each case, how many times as fast the first bundle was; empty without a second.
        notes: What the reader must know before believing a figure.
    """

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    bandwidth: Mapping[str, float]
    load: Mapping[str, float | None]
    bundles: Sequence[BundleResult]
    ratios: Mapping[Case, Ratio] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def best_bandwidth(self) -> float | None:
        """The better of the two read tests: what others took is not the machine's limit."""
        return max(self.bandwidth.values(), default=None)

    def to_json(self) -> dict[str, Any]:
        """The document: see docs/bench.md and `bench.document`."""
        best = self.best_bandwidth
        return BenchDocument(
            schema=SCHEMA,
            schema_version=SCHEMA_VERSION,
            machine=Machine(**self.machine),
            settings=MeasureSettings(**self.settings),
            load=Load(**self.load),
            bandwidth_bytes_per_second=Bandwidth(**self.bandwidth) if self.bandwidth else None,
            bundles=tuple(found.document(best) for found in self.bundles),
            ratios=tuple(
                CaseRatio(phase=case.phase, context=case.context, tokens=case.tokens, speed=ratio.document())
                for case, ratio in self.ratios.items()
            ),
            notes=tuple(self.notes),
        ).to_json()
