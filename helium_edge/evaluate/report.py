"""From judged answers to the document: paired figures, gates, and what the reader must know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from helium_edge.bundle import Bundle, manifest_hash
from helium_edge.evaluate import paired
from helium_edge.evaluate.document import SCHEMA, SCHEMA_VERSION, EvaluationDocument
from helium_edge.evaluate.metrics import Judged
from helium_edge.evaluate.paired import Difference
from helium_edge.parity import facts
from helium_edge.recipe import TaskDrop

if TYPE_CHECKING:
    from helium_edge.evaluate.run import Asked

ANY_Z = 3.0
"""Standard errors that a single task must lie below its gate: among a dozen, two would happen by chance."""

UNKNOWN_PROTOCOL = "published figures are those of the model card, which does not say how they were measured"


def make_document(
    bundle: Bundle,
    asked: Sequence[Asked],
    gates: TaskDrop | None,
    *,
    work: Mapping[str, Mapping[str, int]],
    limit: int,
    threads: int,
    seconds: float,
) -> dict[str, Any]:
    """The document of an evaluation, checked against its model.

    Args:
        bundle: What was asked.
        asked: Tasks and answers.
        gates: What is judged by; None judges nothing.
        work: By model, what it was asked.
        limit: Most questions of a task.
        threads: Threads within an operator.
        seconds: Of the whole run.
    """
    rows, parts, seen = [], [], set[str]()
    for task in asked:
        for index, artifact in enumerate(task.artifact):
            before = None if task.original is None else task.original[index]
            difference = None if before is None else _difference(before, artifact)
            rows.append(_row(task, before, artifact, difference, None if gates is None else gates.any))
            name = task.plan.asked.task.name
            if difference is not None and artifact.right is not None and name not in seen:
                seen.add(name)
                parts.append(difference)
    mean = _mean(parts, None if gates is None else gates.mean)
    failures = _failures(rows, mean, gates)
    outcomes = [row["verdict"] for row in rows] + ([] if mean is None else [mean["verdict"]])
    judged = [outcome for outcome in outcomes if outcome is not None]
    verdict = (
        "failed"
        if failures
        else "not judged"
        if not judged
        else "undecided"
        if "undecided" in judged
        else "passed"
    )
    data = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "verdict": verdict,
        "passed": not failures,
        "failures": failures,
        "subject": facts.subject(bundle),
        "manifest_sha256": manifest_hash(bundle),
        "environment": facts.environment(bundle, threads),
        "limit": limit,
        "gates": {"mean": None if gates is None else gates.mean, "any": None if gates is None else gates.any},
        "tasks": rows,
        "mean": mean,
        "work": {name: dict(counts) for name, counts in work.items()},
        "notes": _notes(rows, work),
        "seconds": seconds,
    }
    return EvaluationDocument.model_validate(data).to_json()


def _difference(original: Judged, artifact: Judged) -> Difference:
    """In points."""
    if artifact.right is not None and original.right is not None:
        binary = np.isin(np.concatenate([original.right, artifact.right]), (0.0, 1.0)).all()
        kind = paired.share_difference if binary else paired.mean_difference
        found = kind(original.right, artifact.right)
    else:
        assert artifact.counts is not None
        assert original.counts is not None
        assert artifact.figure is not None
        found = paired.bootstrap(original.counts, artifact.counts, artifact.figure)
    return Difference(*(100 * value for value in (found.value, found.se, found.low, found.high, found.spread)))


def _row(
    task: Asked, original: Judged | None, artifact: Judged, difference: Difference | None, gate: float | None
) -> dict[str, Any]:
    asked = task.plan.asked
    row: dict[str, Any] = {
        "task": asked.task.name,
        "title": asked.task.title,
        "language": asked.task.language,
        "form": asked.form,
        "shots": asked.task.shots,
        "metric": artifact.metric,
        "n": len(task.plan.items),
        "questions": len(task.plan.data.questions),
        "data_sha256": task.plan.data.sha256,
        "original": None,
        "artifact": 100 * artifact.value,
        "published": asked.task.published,
    }
    empty = (
        "difference", "se", "interval", "lost", "gained", "changed", "mcnemar_p", "margin_change",
        "margin_change_se", "verdict", "too_few",
    )  # fmt: skip
    row |= dict.fromkeys(empty)
    if original is None or difference is None:
        return row
    row |= {
        "original": 100 * original.value,
        "difference": difference.value,
        "se": difference.se,
        "interval": [difference.low, difference.high],
        "changed": sum(one != other for one, other in zip(original.picks, artifact.picks, strict=True)),
    }
    if original.right is not None and artifact.right is not None:
        lost, gained = paired.flips(original.right, artifact.right)
        row |= {"lost": lost, "gained": gained, "mcnemar_p": paired.mcnemar(lost, gained)}
    if original.margins is not None and artifact.margins is not None:
        change = paired.mean_difference(original.margins, artifact.margins)
        row |= {"margin_change": change.value, "margin_change_se": change.se}
    if gate is not None:
        row |= {
            "verdict": paired.judge(difference, gate, z=ANY_Z),
            "too_few": paired.too_few(difference, gate),
        }
    return row


def _mean(parts: Sequence[Difference], gate: float | None) -> dict[str, Any] | None:
    if not parts:
        return None
    found = paired.mean_of(parts)
    return {
        "tasks": len(parts),
        "difference": found.value,
        "se": found.se,
        "interval": [found.low, found.high],
        "verdict": None if gate is None else paired.judge(found, gate),
        "too_few": None if gate is None else paired.too_few(found, gate),
    }


def _failures(
    rows: Sequence[Mapping[str, Any]], mean: Mapping[str, Any] | None, gates: TaskDrop | None
) -> list[str]:
    if gates is None:
        return []
    found = [
        f"{row['task']} {row['form']} {row['metric']} {_signed(row['difference'])} points, a drop of "
        f"{gates.any:g} is allowed"
        for row in rows
        if row["verdict"] == "worse"
    ]
    if mean is not None and mean["verdict"] == "worse":
        found.append(f"mean {_signed(mean['difference'])} points, a drop of {gates.mean:g} is allowed")
    return found


def _signed(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else "not finite"


def _notes(rows: Sequence[Mapping[str, Any]], work: Mapping[str, Mapping[str, int]]) -> list[str]:
    notes = []
    if any(row["published"] is not None for row in rows):
        notes.append(UNKNOWN_PROTOCOL)
    few = [f"{row['task']} {row['form']}" for row in rows if row["too_few"]]
    if few:
        notes.append(f"too few questions to judge: {', '.join(dict.fromkeys(few))}")
    for name, counts in work.items():
        if counts["truncated"]:
            notes.append(f"{name}: {counts['truncated']} contexts were cut to fit the cache")
        if counts["merged"]:
            notes.append(f"{name}: {counts['merged']} choices begin inside a token of their context")
    return notes
