"""The JSON document of a sweep: the models that describe it, and making it of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from helium_edge.evaluate.document import EvaluationDocument
from helium_edge.evaluate.plan import plan
from helium_edge.evaluate.run import evaluate
from helium_edge.schemas import Count, Figure, Items, Part
from helium_edge.sweep.cells import Cell, CellStore
from helium_edge.sweep.local import Outcome
from helium_edge.sweep.prepare import Sweep

SCHEMA: Final = "helium-edge/sweep"
SCHEMA_VERSION = "1.0"


class SweepRow(Part):
    """One recipe."""

    recipe: str
    target: str
    bundle: str
    """Folder in the store."""
    bytes: Count
    """Of all files."""
    difference: Figure | None
    """Mean over tasks, artifact less original, points."""
    se: Figure | None
    kld: Figure | None
    """Mean KLD of the logits, nats per token (parity level L3); null where it was not measured."""
    kld_se: Figure | None
    parity_passed: bool | None
    decode_tokens_per_second: Figure | None
    """At the median, with an empty cache; null where it was not measured."""
    pareto: bool
    """No other recipe is both smaller and better: by KLD, or where that was not measured by the difference."""
    evaluation: EvaluationDocument | None
    """What `helium-edge eval` says of the bundle; null where a cell failed."""


class FailedCell(Part):
    """A piece of work that came to nothing."""

    cell: str
    message: str


class SweepDocument(Part):
    """What `helium-edge sweep --json` prints under the key `sweep`."""

    # `schema` is a method of pydantic models, so the field has another name in Python.
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    schema_id: Literal["helium-edge/sweep"] = Field(alias="schema")
    schema_version: Annotated[str, Field(pattern=r"^1\.[0-9]+$")]
    passed: bool
    """Every cell was done."""
    checkpoint: str
    tasks: Items[str]
    limit: Count
    recipes: Items[SweepRow]
    """The smallest first."""
    failed: Items[FailedCell]


def make_document(
    sweep: Sweep, cells: Sequence[Cell], store: CellStore, failed: Sequence[Outcome]
) -> dict[str, Any]:
    """What the cells came to.

    Args:
        sweep: What was asked for.
        cells: All of it.
        store: Where results are.
        failed: Cells that came to nothing.
    """
    made = [_row(sweep, index, cells, store) for index in range(len(sweep.recipes))]
    rows: list[dict[str, Any]] = [row for row in made if row is not None]
    rows.sort(key=lambda row: (row["bytes"], row["recipe"]))
    for row in rows:
        row["pareto"] = not any(_beats(other, row) for other in rows)
    data = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "passed": not failed,
        "checkpoint": sweep.checkpoint.source,
        "tasks": list(sweep.tasks),
        "limit": sweep.limit,
        "recipes": rows,
        "failed": [{"cell": each.cell.name, "message": each.error.message} for each in failed],
    }
    return SweepDocument.model_validate(data).to_json()


def _row(sweep: Sweep, index: int, cells: Sequence[Cell], store: CellStore) -> dict[str, Any] | None:
    """A recipe; None where it was not exported."""
    recipe = sweep.recipes[index]
    export = next(cell for cell in cells if cell.kind == "export" and cell.name == f"export {recipe.name}")
    exported = store.result(export)
    if exported is None:
        return None
    mine = [cell for cell in cells if export.key in cell.needs and cell.spec["recipe"] == export.spec["recipe"]]
    found = {cell.kind: store.result(cell) for cell in mine if cell.kind in ("parity", "speed")}
    asked = [cell for cell in cells if cell.kind == "original" or (cell.kind == "artifact" and cell in mine)]
    done = all(store.result(cell) is not None for cell in asked)
    evaluation = None
    if done and asked:  # every answer is in the store: no model is loaded
        tasks = plan(sweep.tasks, sweep.data, sweep.limit)
        evaluation = evaluate(
            store.bundle(export),
            tasks,
            store.folder,
            checkpoint=sweep.source,
            limit=sweep.limit,
            threads=sweep.threads,
        )
    mean = (evaluation or {}).get("mean") or {}
    overall = ((found.get("parity") or {}).get("levels", {}).get("L3") or {}).get("overall", {})
    return {
        "recipe": recipe.name,
        "target": recipe.targets.names()[0],
        "bundle": str(exported["bundle"]),
        "bytes": exported["bytes"],
        "difference": mean.get("difference"),
        "se": mean.get("se"),
        "kld": overall.get("kld_mean"),
        "kld_se": overall.get("kld_mean_se"),
        "parity_passed": (found.get("parity") or {}).get("passed"),
        "decode_tokens_per_second": _decode_speed(found.get("speed")),
        "pareto": False,
        "evaluation": evaluation,
    }


def _decode_speed(document: Mapping[str, Any] | None) -> float | None:
    results = [] if document is None else document["bundles"][0]["results"]
    return next((float(each["tokens_per_second"]) for each in results if each["phase"] == "decode"), None)


def loss(row: Mapping[str, Any]) -> float | None:
    """What a recipe costs: KLD where it was measured, else the points lost."""
    if row["kld"] is not None:
        return float(row["kld"])
    return None if row["difference"] is None else -float(row["difference"])


def _beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    mine, theirs = loss(one), loss(other)
    if mine is None or theirs is None:
        return False
    better = one["bytes"] < other["bytes"] or mine < theirs
    return one["bytes"] <= other["bytes"] and mine <= theirs and better
