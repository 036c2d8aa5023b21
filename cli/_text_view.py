"""How the comparison of a classifier or encoder is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import _console
from ._format import figure

if TYPE_CHECKING:
    from helium_edge.parity.text_report import TextReport
    from helium_edge.parity.verdict import GateResult


def show_text_parity(report: TextReport, *, stderr: bool = False) -> None:
    """Show a comparison: L1 with its gates, then the figures of L3 over all texts and its gates."""
    found = report.figures
    kind = report.task.words
    if report.graph is not None:
        _console.title(f"Parity with torch (L1, {kind}, {report.graph.texts:,} texts)", stderr=stderr)
        pairs_l1 = [("rows", f"{report.graph.rows:,}"), ("activations", report.graph.arithmetic)]
        _console.fields(pairs_l1, stderr=stderr)
        _show_gates(report.graph.gates, stderr=stderr)
        _console.line("", stderr=stderr)
    _console.title(f"Parity with the original (L3, {kind}, {found.texts:,} texts)", stderr=stderr)
    pairs: list[tuple[str, object]] = [
        ("rows", f"{found.rows:,}"),
        ("max error", f"{figure(found.max_error)}, {figure(found.max_logit_error)} of the rms"),
        ("rms error", f"{figure(found.rms_error)} of the rms"),
    ]
    if found.label_agreement is not None:
        ties = f", {found.ambiguous} near ties differ" if found.ambiguous else ""
        pairs.append(("same label", f"{100 * found.label_agreement:.1f}%{ties}"))
    if found.cosine is not None:
        pairs.append(("cosine", f"{found.cosine:.6f}"))
    _console.fields(pairs, stderr=stderr)
    _show_gates(report.gates, stderr=stderr)
    if report.caveat:
        _console.line(f"note: {report.caveat}", stderr=stderr)


def _show_gates(gates: Sequence[GateResult], *, stderr: bool) -> None:
    _console.line("", stderr=stderr)
    columns = ["gate", "measured", "std error", "limit", "verdict"]
    _console.table(columns, map(_gate_row, gates), right=["measured", "std error"], stderr=stderr)


def _gate_row(gate: GateResult) -> Sequence[object]:
    """A gate; one that holds only by the allowance for the sample's noise says so."""
    if gate.limit is None:
        return gate.name, figure(gate.measured, 4), "-", "-", "not gated"
    at_most = gate.bound == "max"
    inside = gate.measured <= gate.limit if at_most else gate.measured >= gate.limit
    verdict = "FAILED" if not gate.passed else "ok" if inside else "ok, within noise"
    error = figure(gate.standard_error, 2) if gate.standard_error else "-"
    limit = f"at {'most' if at_most else 'least'} {gate.limit:g}"
    return gate.name, figure(gate.measured, 4), error, limit, verdict
