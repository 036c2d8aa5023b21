"""How the plan of an export is shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from . import _console
from ._format import duration, layer_pattern, shape, size, with_layers
from ._phones_view import show_predictions

if TYPE_CHECKING:
    from helium_edge.bench.phones import Prediction
    from helium_edge.exporting import ExportPlan

NamedRow = tuple[str, tuple[object, ...], int]
"""Name, the columns that equal rows share, and bytes."""


def plan_document(plan: ExportPlan, checkpoint: str) -> dict[str, Any]:
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
        "recipe": plan.recipe.name,
        "targets": list(plan.recipe.targets.names()),
        "host_bytes": plan.host_bytes,
        "verify_bytes": plan.parity_bytes,
        "phone_bytes": plan.phone_bytes,
        "cache_len": plan.cache_len,
        "calibration_seconds": None if plan.calibration_seconds is None else round(plan.calibration_seconds, 1),
        "weights": weights,
        "files": [{"path": name, "bytes": nbytes} for name, nbytes in plan.files],
        "predictions": [each.to_json() for each in predicted(plan)],
        "warnings": list(plan.warnings),
    }


def show_plan(plan: ExportPlan, checkpoint: str, *, compared: bool) -> None:
    """Show what an export would do; `compared` is whether the result is held against the original."""
    rows: list[NamedRow] = []
    for weight in plan.weights:
        scheme = "float32" if weight.scheme is None else f"{weight.scheme}{' fallback' * weight.fallback}"
        rows.append((weight.name, (shape(weight.shape), scheme), weight.nbytes))
    (target,) = plan.recipe.targets.names()
    _console.title(f"Plan: {checkpoint} by recipe {plan.recipe.name} for {target}")
    _console.table(["weights", "shape", "scheme", "size"], group_rows(rows), right=["size"])
    _console.line("")
    total = sum(nbytes for _, nbytes in plan.files)
    files_shown = [(name, size(nbytes)) for name, nbytes in plan.files]
    _console.table(["file (estimate)", "size"], [*files_shown, ("together", size(total))], right=["size"])
    _console.line("")
    with_comparison = f", {size(plan.parity_bytes)} with the comparison" if compared else ""
    _console.fields(
        [
            ("this machine", f"{size(plan.host_bytes)} of memory{with_comparison}"),
            *_calibration(plan),
            ("the phone", f"{size(sum(plan.phone_bytes.values()))} of memory at {plan.cache_len:,} tokens"),
            *((f"  {key.replace('_', ' ')}", size(nbytes)) for key, nbytes in plan.phone_bytes.items()),
        ]
    )
    show_predictions(predicted(plan))


def predicted(plan: ExportPlan) -> Sequence[Prediction]:
    """How fast the export should be on phones; empty where that cannot be told."""
    from helium_edge.bench.phones import predictions

    (target,) = plan.recipe.targets.names()
    return predictions(plan.config, plan.recipe.override(cache_len=plan.cache_len), target)


def _calibration(plan: ExportPlan) -> list[tuple[str, object]]:
    if plan.calibration_seconds is None:
        return []
    seconds = plan.calibration_seconds
    shown = duration(seconds) if seconds < 60 else f"{round(seconds / 60)} min"
    return [("  calibration", f"about {shown}, none with --fast")]


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
