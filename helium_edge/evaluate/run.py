"""A bundle and its original asked the same questions: what `helium-edge eval` does."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helium_edge.bundle import open_bundle
from helium_edge.errors import HeliumEdgeError
from helium_edge.evaluate.metrics import Answer, Judged, judge_answers
from helium_edge.evaluate.official import OfficialTasks, ask_official, judge_official, planned
from helium_edge.evaluate.plan import PlannedTask
from helium_edge.evaluate.prompts import Item
from helium_edge.evaluate.report import make_document
from helium_edge.evaluate.store import AnswerStore
from helium_edge.evaluate.subjects import Subject, bundle_subject, original_subject
from helium_edge.first_run import ensure_runs
from helium_edge.progress import SILENT, Progress
from helium_edge.recipe import TaskDrop

BATCH = 64
"""Questions between two writes to the store; an interruption loses no more."""


@dataclass(frozen=True)
class Asked:
    """A task with the judged answers of both models, in the same order.

    Attributes:
        plan: The task.
        artifact: A figure of each metric.
        original: The same of the original; None without it.
    """

    plan: PlannedTask
    artifact: tuple[Judged, ...]
    original: tuple[Judged, ...] | None


def evaluate(  # noqa: PLR0913 - keywords with defaults
    bundle_path: Path,
    tasks: Sequence[PlannedTask],
    store: Path,
    *,
    original: bool = True,
    checkpoint: str | None = None,
    gates: TaskDrop | None = None,
    limit: int = 0,
    threads: int = 0,
    unverified: bool = False,
    official: OfficialTasks | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Ask a bundle and its original, and compare their answers.

    Args:
        bundle_path: The bundle.
        tasks: What is asked; see `plan`.
        store: Folder of answers; known ones are not computed again.
        original: Ask the original as well.
        checkpoint: Where it is; None is where the bundle says it came from.
        gates: What is judged by; None are those of the bundle's recipe.
        limit: As of `plan`, for the document.
        threads: Threads within an operator; 0 lets the runtime choose.
        unverified: Run a bundle whose checksums do not match.
        official: Tasks of lm-eval, of which no answers are kept.
        progress: Receives stages.

    Returns:
        An evaluation document (`document.EvaluationDocument`); missing a gate is no exception here.

    Raises:
        InputError: Bundle or checkpoint are unusable, or do not belong together.
        MissingDependencyError: The extra `reference` or `eval` is needed and missing.
        HeliumEdgeError: Not every question was answered, which is a bug.
    """
    started = time.perf_counter()
    progress.stage("read bundle")
    bundle = open_bundle(bundle_path, unverified=unverified)
    artifact = bundle_subject(bundle, threads=threads)
    subjects = {"artifact": artifact}
    if original:
        subjects["original"] = original_subject(bundle, checkpoint, threads=threads)
    answers = AnswerStore(store)
    judged: dict[str, list[tuple[Judged, ...]]] = {}
    logged: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, subject in subjects.items():
        if name == "artifact":
            ensure_runs(bundle, unverified=unverified)
        # One after the other: two models are never in memory.
        judged[name] = [answer_task(subject, task, answers, progress) for task in tasks]
        if official is not None:
            progress.stage(f"ask {subject.name}: tasks of lm-eval")
            logged[name] = ask_official(subject, official)
        subject.close()
    recipe = bundle.manifest.quantization.to_recipe()
    asked = [
        Asked(task, judged["artifact"][at], judged["original"][at] if original else None)
        for at, task in enumerate(tasks)
    ]
    if official is not None:
        asked += official_rows(official, logged)
    return make_document(
        bundle,
        asked,
        gates if gates is not None else recipe.gates.task_drop,
        work={name: subject.counts for name, subject in subjects.items()},
        limit=limit,
        threads=threads,
        seconds=time.perf_counter() - started,
    )


def official_rows(
    official: OfficialTasks, logged: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
) -> list[Asked]:
    """Tasks of lm-eval as ours are: the same questions on both sides, by the hash of their documents.

    Raises:
        HeliumEdgeError: They are not.
    """
    rows = []
    for name, mine in logged["artifact"].items():
        theirs = logged.get("original", {}).get(name)
        if theirs is not None and [each["doc_hash"] for each in theirs] != [each["doc_hash"] for each in mine]:
            raise HeliumEdgeError(f"internal error: {name}: the two models were asked different questions")
        before = None if theirs is None else tuple(judge_official(name, theirs))
        rows.append(Asked(planned(name, official, mine), tuple(judge_official(name, mine)), before))
    return rows


def answer_task(
    subject: Subject, task: PlannedTask, store: AnswerStore, progress: Progress = SILENT
) -> tuple[Judged, ...]:
    """Answers of one model to one task, of the store as far as it has them, and judged.

    Raises:
        HeliumEdgeError: Not every question was answered.
    """
    about = {**subject.identity, **task.about}
    known = store.read(about)
    missing = [item for item in task.items if item.question.sha256 not in known]
    name = f"{task.asked.task.name} {task.asked.form}"
    progress.stage(f"ask {subject.name}: {name}", len(task.items), "questions")
    progress.advance(len(task.items) - len(missing))
    # Neighbours share the longest start, also over the border of a batch.
    missing.sort(key=_start)
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        found = subject.answer(batch, progress.advance)
        fresh = {item.question.sha256: answer for item, answer in zip(batch, found, strict=True)}
        store.write(about, fresh)
        known |= fresh
    return _judged(task, known)


def _start(item: Item) -> str:
    """What a question begins with."""
    return item.pairs[0][0] if item.continuation is None else item.continuation.prompt


def _judged(task: PlannedTask, known: dict[str, Answer]) -> tuple[Judged, ...]:
    answers = [known[item.question.sha256] for item in task.items if item.question.sha256 in known]
    if len(answers) != len(task.items):
        raise HeliumEdgeError(
            f"internal error: {task.asked.task.name}: {len(answers)} of {len(task.items)} questions were answered",
            hint="please report it; --debug shows the traceback",
        )
    asked = task.asked
    return tuple(
        judge_answers(
            task.items, answers, corpus=asked.task.kind == "translation", by_length=asked.form == "cloze"
        )
    )
