"""`ParityReport`: what a run found, in the form that files and manifests keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from helium_edge.parity.metrics import Aggregate
from helium_edge.parity.verdict import GateResult

SCHEMA = "helium-edge/parity"
SCHEMA_VERSION = "1.0"


@dataclass(frozen=True)
class ParityReport:
    """The outcome of one level of parity.

    Attributes:
        level: `L0` to `L3`, the question that was asked; `L3` is exported graph against original.
        overall: All positions.
        languages: The same per language, in the order of evaluation.
        gates: Every gate, with or without a limit; judged on `overall`.
        windows: Conversations that were run.
        seconds: Wall time; not in `to_json`, which is the same for the same figures.
        caveat: What the reader must know of how the candidate was run, as that it was not its real runtime.
    """

    level: str
    overall: Aggregate
    languages: Mapping[str, Aggregate]
    gates: tuple[GateResult, ...]
    windows: int
    seconds: float = field(compare=False)
    caveat: str = ""

    @property
    def failures(self) -> list[str]:
        """One line for each gate that does not hold."""
        return [gate.failure for gate in self.gates if gate.failure is not None]

    @property
    def passed(self) -> bool:
        """Whether every gate that has a limit holds."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON data: 6 significant digits, null for what is NaN or infinite."""
        gates = [
            {
                "name": gate.name,
                "measured": significant(gate.measured, 6),
                "standard_error": significant(gate.standard_error, 6),
                "bound": gate.bound,
                "limit": gate.limit,
                "passed": gate.passed,
            }
            for gate in self.gates
        ]
        level = {
            "passed": self.passed,
            "failures": self.failures,
            "gates": gates,
            "caveat": self.caveat or None,
            "windows": self.windows,
            "tokens": self.overall.tokens,
            "overall": _figures(self.overall),
            "languages": {language: _figures(figures) for language, figures in self.languages.items()},
        }
        return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "levels": {self.level: level}}

    def summary(self) -> dict[str, Any]:
        """The few figures that a bundle's manifest carries: 3 significant digits, null for NaN or infinite."""
        overall = self.overall
        figures = {
            "mean_kld": overall.kld_mean,
            "mean_kld_se": overall.kld_mean_se,
            "top1": overall.top1,
            "top1_decided": overall.top1_decided,
            "ppl_ratio": overall.ppl_ratio,
            "max_logit_error": overall.max_logit_error,
        }
        return {
            "level": self.level,
            "passed": self.passed,
            "tokens": overall.tokens,
            "languages": list(self.languages),
            **({"caveat": self.caveat} if self.caveat else {}),
            **{name: significant(value, 3) for name, value in figures.items()},
        }


def _figures(figures: Aggregate) -> dict[str, Any]:
    return {
        name: significant(value, 6) if isinstance(value, float) else value
        for name, value in asdict(figures).items()
    }


def significant(value: float, digits: int) -> float | None:
    """Round to significant digits; None for NaN and infinity, which JSON cannot say."""
    return float(f"{value:.{digits - 1}e}") if math.isfinite(value) else None
