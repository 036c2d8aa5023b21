"""Tasks, read from YAML: what is asked, in which form, and what the rows of a data set become."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from helium_edge.documents import DocumentError, parse_yaml, read_document
from helium_edge.errors import InputError, UsageError, did_you_mean
from helium_edge.schemas import StrictModel, first_problem
from helium_edge.texts import LANGUAGES

MAX_TASK_BYTES = 1 << 18

Kind = Literal["choice", "answer", "translation"]
"""What a document holds: a question with choices, one with accepted answers, or a sentence in two languages."""

Form = Literal["letters", "cloze", "blank", "generate", "official"]
"""How it is asked: choices by letter; each choice as the continuation; the choice in the blank of the sentence,
and the rest of it as the continuation; the model writes; or as lm-eval's task of that name asks."""

_FORMS: Mapping[Kind, tuple[Form, ...]] = {
    "choice": ("letters", "cloze", "blank"),
    "answer": ("generate",),
    "translation": ("generate",),
}
_FIELDS: Mapping[Kind, tuple[str, ...]] = {
    "choice": ("question", "choices", "answer"),
    "answer": ("question", "answers"),
    "translation": ("source", "target"),
}
_NAME = r"^[a-z0-9][a-z0-9_.-]{0,63}$"


class Source(StrictModel):
    """Where `--fetch` finds the data, and what becomes of a row; expressions are Jinja's.

    Args:
        dataset: Hub id, or the address of a file of JSON lines.
        config: Configuration of the data set.
        other: A second configuration, whose row of the same place is `other` in expressions.
        test: Split of the questions.
        shots: Split of the examples; None where there is none, and the first questions serve.
        keep: Rows for which this is empty or false are left out.
        row: Expression of each field of a document.
        clean: `brackets` removes what HellaSwag's makers left in square brackets.
    """

    dataset: str
    config: str | None = None
    other: str | None = None
    test: str
    shots: str | None = None
    keep: str | None = None
    row: dict[str, str]
    clean: Literal["brackets"] | None = None


class Task(StrictModel):
    """One set of questions.

    Args:
        name: How it is asked for; also the name of its folder of data.
        title: For people.
        language: As ISO 639-1 has it.
        kind: What its documents are.
        forms: Ways in which each question is asked; by default the only one of the kind.
        shots: Examples before each question: the first ones of the data, so that all questions share them.
        header: Before the examples; `{group}` is the group of the question.
        prompt: The question; `{question}` or `{source}` is that of the document.
        word: Before the answer.
        until: What ends an answer that the model writes.
        most_new_tokens: Upper bound of its tokens.
        published: What the model card reports, in percent; its protocol is not known.
        source: Where the data is; None where there is nothing to fetch.
        built_in: Language of the built-in text that the questions are made of, in place of data.
    """

    name: Annotated[str, Field(pattern=_NAME)]
    title: str
    language: str
    kind: Kind
    forms: tuple[Form, ...] = ()
    shots: int = Field(default=5, ge=0, le=64)
    header: str = ""
    prompt: str = "Question: {question}\n"
    word: str = "Answer:"
    until: tuple[str, ...] = ("\n",)
    most_new_tokens: int = Field(default=32, ge=1, le=1024)
    published: float | None = None
    source: Source | None = None
    built_in: Literal["en", "fr", "de", "it", "pt", "es"] | None = None

    @model_validator(mode="after")
    def _check(self) -> Task:
        allowed = _FORMS[self.kind]
        for form in self.forms:
            if form not in allowed:
                raise ValueError(f"a task of kind {self.kind} has the forms {', '.join(allowed)}, not {form}")
        if self.source is not None:
            missing = set(fields_of(self.kind)) - set(self.source.row)
            if missing:
                raise ValueError(f"source.row has no expression for {min(missing)}")
        if self.built_in is not None and (self.kind != "choice" or self.built_in not in LANGUAGES):
            raise ValueError("built_in questions are choices in a language of the built-in texts")
        return self


def fields_of(kind: Kind) -> tuple[str, ...]:
    """Fields that every document of a kind has."""
    return _FIELDS[kind]


@dataclass(frozen=True)
class AskedTask:
    """A task in one form."""

    task: Task
    form: Form

    @property
    def text(self) -> str:
        """All that decides what is asked, in one fixed spelling; neither titles nor published figures do."""
        told = self.task.model_dump(mode="json", exclude={"title", "published", "source", "forms", "language"})
        return json.dumps(told | {"form": self.form}, sort_keys=True, ensure_ascii=False)


class _TaskSet(StrictModel):
    """A file of tasks."""

    tasks: tuple[Task, ...] = Field(min_length=1, max_length=256)


def parse_tasks(text: str, *, where: str) -> tuple[Task, ...]:
    """Read a file of tasks.

    Raises:
        InputError: Not YAML, an unknown key, or a value that is not allowed.
    """
    try:
        data = parse_yaml(text)
        return _TaskSet.model_validate_json(json.dumps(data)).tasks
    except ValidationError as error:
        place, problem = first_problem(error, data)
        raise InputError(f"{where}: {place}: {problem}", hint="docs/evaluation.md has an example") from error
    except (DocumentError, TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}", hint="docs/evaluation.md has an example") from error


def shipped_tasks() -> dict[str, tuple[Task, ...]]:
    """The groups that ship with the package."""
    folder = importlib.resources.files("helium_edge.evaluate").joinpath("task_sets")
    files = sorted((each for each in folder.iterdir() if each.name.endswith(".yaml")), key=lambda each: each.name)
    return {
        each.name.removesuffix(".yaml"): parse_tasks(each.read_text(encoding="utf-8"), where=each.name)
        for each in files
    }


def find_tasks(asked: Iterable[str]) -> tuple[list[AskedTask], list[str]]:
    """Tasks by what a user asks for: groups, tasks, `TASK:FORM`, and files of tasks.

    Args:
        asked: Words of the command line.

    Returns:
        Tasks of ours, each in each of its forms, none twice; and the words that name none.

    Raises:
        UsageError: A task has no such form.
        InputError: A file of tasks cannot be read.
    """
    groups = shipped_tasks()
    by_name = {task.name: task for tasks in groups.values() for task in tasks}
    found: dict[tuple[str, Form], AskedTask] = {}
    others: list[str] = []
    for word in asked:
        name, _, form = word.partition(":") if not word.endswith((".yaml", ".yml")) else (word, "", "")
        if word.endswith((".yaml", ".yml")):
            tasks: tuple[Task, ...] = _read_tasks(Path(word))
        elif name in groups:
            tasks = groups[name]
        elif name in by_name:
            tasks = (by_name[name],)
        else:
            others.append(word)
            continue
        for task in tasks:
            for each in _forms(task, form):
                found.setdefault((task.name, each), AskedTask(task, each))
    return list(found.values()), others


def unknown_task(word: str) -> UsageError:
    """What to say of a word that names no task."""
    groups = shipped_tasks()
    names = [*groups, *(task.name for tasks in groups.values() for task in tasks)]
    return UsageError(f"no task {word!r}", hint=f"{did_you_mean(word, names)}; or a file of tasks, FILE.yaml")


def _forms(task: Task, form: str) -> tuple[Form, ...]:
    forms = task.forms or (_FORMS[task.kind][0],)
    chosen = tuple(each for each in forms if form in ("", each))
    if not chosen:
        raise UsageError(f"{task.name} has no form {form!r}", hint=f"it has {', '.join(forms)}")
    return chosen


def _read_tasks(path: Path) -> tuple[Task, ...]:
    try:
        text = read_document(path, MAX_TASK_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError, DocumentError) as error:
        reason: Any = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: not readable: {reason}") from error
    return parse_tasks(text, where=str(path))
