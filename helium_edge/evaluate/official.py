"""Tasks of lm-eval, run by lm-eval over the scorer, and paired like ours.

Their data sets are read from the cache of the Hub alone, which `--fetch TASK --data DIR` fills in `DIR/hub`:
without a network the library would ask it five times, in silence.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helium_edge.documents import first_line
from helium_edge.errors import HeliumEdgeError, InputError, MissingDependencyError, did_you_mean
from helium_edge.evaluate.metrics import Judged
from helium_edge.evaluate.plan import PlannedTask
from helium_edge.evaluate.prompts import Item
from helium_edge.evaluate.questions import Question, QuestionSet, sample
from helium_edge.evaluate.subjects import Subject
from helium_edge.evaluate.task import AskedTask, Task

NOT_PAIRED = frozenset({"bypass", "word_perplexity", "byte_perplexity", "bits_per_byte", "bleu", "chrf", "ter"})
"""Metrics whose samples are no figures that a mean is taken of."""


@dataclass(frozen=True)
class OfficialTasks:
    """Loaded tasks of lm-eval.

    Attributes:
        loaded: As `TaskManager.load` returns them.
        indices: Documents that are asked, by task: a sample by hash.
    """

    loaded: Mapping[str, Any]
    indices: Mapping[str, list[int]]


def prepare_environment(folder: Path | None, *, offline: bool) -> None:
    """Say where the Hub's cache is, before its library is imported, and whether a network may be asked."""
    if folder is not None:
        os.environ["HF_HOME"] = str((folder / "hub").absolute())
    if offline:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    os.environ.setdefault("TQDM_DISABLE", "1")


def load_official(words: Sequence[str], limit: int, *, include: Path | None = None) -> OfficialTasks:
    """Load tasks and their data sets.

    Args:
        words: Names of tasks, groups or tags of lm-eval.
        limit: Most questions of a task; 0 is all.
        include: Folder of further tasks.

    Raises:
        MissingDependencyError: lm-eval is not installed.
        InputError: A data set is not in the cache, or cannot be read.
        UsageError: No such task.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise MissingDependencyError("lm-eval", extra="eval", purpose=f"the task {words[0]}") from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with _quiet():
        manager = TaskManager(include_path=None if include is None else str(include))
        unknown = next((word for word in words if word not in manager.all_tasks), None)
        if unknown is not None:
            raise InputError(f"lm-eval has no task {unknown!r}", hint=did_you_mean(unknown, manager.all_tasks))
        try:
            loaded = manager.load(list(words))
        except Exception as error:  # data sets raise whatever their parts raise
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            raise InputError(
                f"task {', '.join(words)}: its data cannot be read: {first_line(cause)}",
                hint=f"with a network: helium-edge eval --fetch {words[0]} --data DIR; then --data DIR here",
            ) from error
    indices = {}
    for name, task in loaded["tasks"].items():
        documents = [Question(_hash(document), {"at": at}) for at, document in enumerate(task.eval_docs)]
        indices[name] = sorted(int(each.data["at"]) for each in sample(documents, limit))
    return OfficialTasks(loaded, indices)


def ask_official(subject: Subject, tasks: OfficialTasks) -> dict[str, list[dict[str, Any]]]:
    """What lm-eval logs of each question, by task, in the order of the documents.

    Raises:
        HeliumEdgeError: Not every question was answered.
    """
    from lm_eval.evaluator import evaluate

    from helium_edge.evaluate.lm_eval import HeliumEdgeLM

    model = HeliumEdgeLM(subject=subject)
    with _quiet():
        found = evaluate(model, tasks.loaded, samples=dict(tasks.indices), bootstrap_iters=0, log_samples=True)
    samples: dict[str, list[dict[str, Any]]] = {}
    for name, indices in tasks.indices.items():
        logged = found["samples"][name]
        filters = [each["filter"] for each in logged]
        first = [each for each in logged if each["filter"] == filters[0]]
        samples[name] = sorted(first, key=lambda each: int(each["doc_id"]))
        if len(samples[name]) != len(indices):
            raise HeliumEdgeError(
                f"internal error: {name}: {len(samples[name])} of {len(indices)} questions were answered",
                hint="please report it; --debug shows the traceback",
            )
    return samples


def judge_official(name: str, logged: Sequence[Mapping[str, Any]]) -> list[Judged]:
    """Figures of a task: a value for each question by each metric, as lm-eval computed it."""
    metrics = [metric for metric in logged[0]["metrics"] if metric not in NOT_PAIRED]
    picks = [repr(_pick(each)) for each in logged]
    found = []
    for metric in metrics:
        values = [each[metric] for each in logged]
        if all(isinstance(value, int | float | np.number) for value in values):
            found.append(Judged(metric, picks, np.array(values, np.float64)))
    if not found:
        raise InputError(
            f"task {name}: no metric of it is a mean over questions: {', '.join(logged[0]['metrics'])}"
        )
    return found


def planned(name: str, tasks: OfficialTasks, logged: Sequence[Mapping[str, Any]]) -> PlannedTask:
    """A task as the document describes it."""
    task = tasks.loaded["tasks"][name]
    hashes = [str(each["doc_hash"]) for each in logged]
    questions = tuple(Question(each, {}) for each in hashes)
    shots = int(task.config.num_fewshot or 0)
    described = Task(name=name.lower()[:64], title=name, language="", kind="answer", shots=shots)
    everything = tuple(Question("", {}) for _ in range(len(task.eval_docs)))
    data = QuestionSet(everything, {}, hashlib.sha256("".join(hashes).encode()).hexdigest())
    return PlannedTask(AskedTask(described, "official"), data, tuple(Item(question) for question in questions))


def _pick(logged: Mapping[str, Any]) -> Any:
    """What was chosen: the most likely choice, or the text."""
    responses = logged["filtered_resps"]
    if all(isinstance(each, list | tuple) and len(each) == 2 and isinstance(each[0], float) for each in responses):
        return int(np.argmax([each[0] for each in responses]))
    return responses


def _hash(document: Any) -> str:
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval asks git about its folder, and its libraries draw bars: neither is of use here."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        yield
