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
        """The parity report, with the other under the key `arm64`; it fails with either."""
        document = self.parity.to_json()
        failures = [*document["failures"], *self.arm64.failures]
        return {**document, "passed": not failures, "failures": failures, "arm64": self.arm64.to_json()}


def show_arm64(report: Arm64Report) -> None:
    """Show the figures of each phase, then the gates."""
    _console.heading(f"ARM64 ({report.cpu}, {report.runtime}) against this machine")
    rows = []
    for phase in ("prefill", "decode"):
        part = report.only(phase)
        if part.calls:
            same = sum(call.same_choice for call in part.calls)
            rows.append(
                (phase, len(part.calls), part.agreeing, figure(part.median, 2), figure(part.worst, 2), same)
            )
    columns = ["phase", "calls", "equal", "median", "worst", "same choice"]
    _console.table(columns, rows, right=columns[1:])
    _console.line("")
    gates = (("worst", report.worst, report.limit), ("median", report.median, report.median_limit))
    _console.table(
        ["gate", "measured", "limit", "verdict"],
        [
            (name, figure(found), f"at most {limit:.2g}", "ok" if found <= limit else "FAILED")
            for name, found, limit in gates
        ],
        right=["measured"],
    )
    _console.line("relative rms of logits and of new cache rows, by call; equal: at most 1e-05")
