"""How `parity --arm64` is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _console
from ._format import figure

if TYPE_CHECKING:
    from helium_edge.arm64 import Arm64Report
    from helium_edge.parity import ParityReport


@dataclass(frozen=True)
class WithArm64:
    """Both comparisons of one bundle as one report."""

    parity: ParityReport
    arm64: Arm64Report

    def to_json(self) -> dict[str, Any]:
        """The parity report, with the other under the key `arm64`."""
        return {**self.parity.to_json(), "arm64": self.arm64.to_json()}


def show_arm64(report: Arm64Report) -> None:
    """Show the figures of each phase."""
    _console.heading(f"ARM64 ({report.cpu}, {report.runtime}) against this machine")
    from helium_edge.arm64.compare import TOLERANCE

    columns = ["phase", "calls", f"within {TOLERANCE:g}", "median", "max", "cache max", "same choice"]
    rows = []
    for phase in ("prefill", "decode"):
        part = report.only(phase)
        if part.calls:
            rows.append(
                (
                    phase,
                    len(part.calls),
                    part.agreeing,
                    figure(part.median(), 2),
                    figure(max(call.logits_rms for call in part.calls), 2),
                    figure(max(call.cache_rms for call in part.calls), 2),
                    sum(call.same_choice for call in part.calls),
                )
            )
    _console.table(columns, rows, right=columns[1:])
    verdict = "ok" if report.passed else "missed"
    _console.line(f"relative rms of every call at most {report.limit:g}: {verdict}")
