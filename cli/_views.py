"""How a plan and a parity report are shown: shared by several commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from . import _console
from ._format import figure, layer_pattern, shape, size, with_layers

if TYPE_CHECKING:
    from helium_edge.parity import LevelReport, ParityReport
    from helium_edge.parity.verdict import GateResult
    from helium_edge.pipeline import ExportPlan
    from helium_edge.recipe import Recipe

NamedRow = tuple[str, tuple[object, ...], int]
"""Name, the columns that equal rows share, and bytes."""


def plan_document(plan: ExportPlan, checkpoint: str, recipe: Recipe) -> dict[str, Any]:
    """What an export would do, as plain data."""
    weights = [
        {
            "name": weight.name,
            "shape": weight.shape,
            "scheme": str(weight.scheme) if weight.scheme is not None else "float32",
            "fallback": weight.fallback,
            "bytes": weight.nbytes,
        }
        for weight in plan.weights
    ]
    return {
        "checkpoint": checkpoint,
        "recipe": recipe.name,
        "targets": list(recipe.targets.names()),
        "host_bytes": plan.host_bytes,
        "verify_bytes": plan.verify_bytes,
        "phone_bytes": plan.phone_bytes,
        "cache_len": plan.cache_len,
        "weights": weights,
        "files": [{"path": name, "bytes": nbytes} for name, nbytes in plan.files],
    }


def show_plan(plan: ExportPlan, checkpoint: str, recipe: Recipe) -> None:
    """Show what an export would do."""
    rows: list[NamedRow] = []
    for weight in plan.weights:
        scheme = "float32" if weight.scheme is None else f"{weight.scheme}{' fallback' * weight.fallback}"
        rows.append((weight.name, (shape(weight.shape), scheme), weight.nbytes))
    _console.title(f"Plan: {checkpoint} by recipe {recipe.name} for {recipe.targets.names()[0]}")
    _console.table(["weights", "shape", "scheme", "size"], group_rows(rows), right=["size"])
    _console.line("")
    total = sum(nbytes for _, nbytes in plan.files)
    files_shown = [(name, size(nbytes)) for name, nbytes in plan.files]
    _console.table(["file (estimate)", "size"], [*files_shown, ("together", size(total))], right=["size"])
    _console.line("")
    _console.fields(
        [
            ("this machine", f"{size(plan.host_bytes)} of memory, {size(plan.verify_bytes)} with the comparison"),
            ("the phone", f"{size(sum(plan.phone_bytes.values()))} of memory at {plan.cache_len:,} tokens"),
            *((f"  {key.replace('_', ' ')}", size(nbytes)) for key, nbytes in plan.phone_bytes.items()),
        ]
    )


def group_rows(rows: Iterable[NamedRow]) -> list[Sequence[object]]:
    """Put equal rows of several layers into one: ranges in the name, the shared columns, bytes of all."""
    groups: dict[tuple[object, ...], tuple[list[int | None], list[int]]] = {}
    for name, shared, nbytes in rows:
        pattern, layer = layer_pattern(name)
        layers, sizes = groups.setdefault((pattern, *shared), ([], []))
        layers.append(layer)
        sizes.append(nbytes)
    return [
        (with_layers(str(key[0]), layers), *key[1:], size(sum(sizes))) for key, (layers, sizes) in groups.items()
    ]


def show_parity(report: ParityReport, *, stderr: bool = False) -> None:
    """Show a comparison: a line a level, the languages, the gates, the cache, and where the time went."""
    from helium_edge.parity import LevelReport

    compared = [level for level in report.levels if isinstance(level, LevelReport)]
    tokens = compared[-1].overall.tokens
    _console.title(f"Parity with the original, {tokens:,} tokens", stderr=stderr)
    columns = ["level", "question", "verdict"]
    rows = [(level.level, level.to_json()["question"], _verdict(level.passed)) for level in report.levels]
    _console.table(columns, rows, stderr=stderr)
    for level in compared:
        _console.line("", stderr=stderr)
        _show_level(level, stderr=stderr)
    if report.checks:
        _console.line("", stderr=stderr)
        failed = [check for check in report.checks if not check.passed]
        names = ", ".join(check.name for check in report.checks if check.passed)
        _console.line(
            f"cache: {len(report.checks) - len(failed)} of {len(report.checks)} hold: {names}", stderr=stderr
        )
        for check in failed:
            _console.line(f"cache: FAILED {check.name}: {check.detail}", stderr=stderr)
    if report.cost is not None:
        share = f"{100 * report.cost.overhead:.0f}% of {report.cost.wall:.1f} s outside forward passes"
        cached = ", reference from the cache" if report.cost.cached_reference else ""
        _console.line(f"cost: {share}{cached}", stderr=stderr)


def _verdict(passed: bool) -> str:
    return "ok" if passed else "FAILED"


def _show_level(level: LevelReport, *, stderr: bool) -> None:
    columns = [level.level, "tokens", "mean KLD", "99% KLD", "top-1", "PPL", "PPL ratio", "max error"]
    rows = [
        (
            name,
            found.tokens,
            figure(found.kld_mean, 2),
            figure(found.kld_p99, 2),
            f"{100 * found.top1:.1f}%",
            f"{found.ppl_candidate:.2f}",
            f"{found.ppl_ratio:.4f}",
            figure(found.max_logit_error, 2),
        )
        for name, found in [*level.languages.items(), ("all", level.overall)]
    ]
    _console.table(columns, rows, right=columns[1:], stderr=stderr)
    columns = ["gate", "measured", "std error", "limit", "verdict"]
    _console.table(columns, map(_gate_row, level.gates), right=["measured", "std error"], stderr=stderr)
    if level.caveat:
        _console.line(f"note: {level.caveat}", stderr=stderr)
    if level.overall.ambiguous and level.level != "L1":
        _console.line(
            f"top1 counts {level.overall.ambiguous} near ties of the original as agreement; "
            f"without them {level.overall.top1:.4g} agree",
            stderr=stderr,
        )


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
