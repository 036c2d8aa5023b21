"""What an evaluation will ask: tasks found, data read and checked, prompts made. Light: no model, no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from helium_edge.errors import UsageError
from helium_edge.evaluate.prompts import Item, make_items
from helium_edge.evaluate.questions import DEFAULT_LIMIT, QuestionSet, read_questions, sample
from helium_edge.evaluate.task import AskedTask, find_tasks, unknown_task


@dataclass(frozen=True)
class PlannedTask:
    """A task in one form, with the questions that are asked.

    Attributes:
        asked: The task.
        data: All its documents.
        items: The sample, as it is asked.
    """

    asked: AskedTask
    data: QuestionSet
    items: tuple[Item, ...]

    @property
    def about(self) -> dict[str, str]:
        """What decides about answers, besides the model."""
        shots = "".join(shot.sha256 for found in self.data.shots.values() for shot in found)
        return {
            "task": self.asked.text,
            "data": self.data.sha256,
            "shots": hashlib.sha256(shots.encode()).hexdigest(),
        }


def plan(words: Iterable[str], folder: Path | None, limit: int = DEFAULT_LIMIT) -> list[PlannedTask]:
    """Read what is asked for, and refuse what cannot be asked, before a model is loaded.

    Args:
        words: Groups, tasks, `TASK:FORM` and files of tasks.
        folder: Of the data.
        limit: Most questions of a task; 0 is all.

    Raises:
        UsageError: No such task or form, or none at all.
        InputError: Data or a file of tasks are missing or malformed; file, line and key are named.
    """
    tasks, others = find_tasks(words)
    if others:
        raise unknown_task(others[0])
    if not tasks:
        raise UsageError(
            "no task was named", hint="--tasks card-en, for example, or --tasks built-in, which needs no data"
        )
    read: dict[str, QuestionSet] = {}
    found = []
    for asked in tasks:
        name = asked.task.name
        if name not in read:
            read[name] = read_questions(asked.task, folder)
        items = make_items(asked, read[name], sample(read[name].questions, limit))
        found.append(PlannedTask(asked, read[name], tuple(items)))
    return found
