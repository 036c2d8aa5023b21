"""From a question to what the model reads: the four forms, with their examples."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helium_edge.errors import InputError
from helium_edge.evaluate.questions import Question, QuestionSet
from helium_edge.evaluate.task import AskedTask, Form, Task
from helium_edge.evaluate.until import Continuation

LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class Item:
    """A question as it is asked.

    Attributes:
        question: The document.
        pairs: Context and choice of each choice; empty where the model writes.
        lengths: Characters of each choice, so that a long one has no disadvantage; 1 where they do not count.
        answer: Index of the right choice.
        continuation: What to continue, where the model writes.
        accepted: Texts that are right, where it does.
    """

    question: Question
    pairs: tuple[tuple[str, str], ...] = ()
    lengths: tuple[int, ...] = ()
    answer: int = 0
    continuation: Continuation | None = None
    accepted: tuple[str, ...] = ()


def make_items(asked: AskedTask, data: QuestionSet, questions: Sequence[Question]) -> list[Item]:
    """The questions of a task in one form.

    Raises:
        InputError: A question does not fit the form: more choices than letters, or a sentence without one blank.
    """
    preambles: dict[str, str] = {}
    for group in {question.group for question in questions}:
        shots = data.shots.get(group, ())
        header = _fill(asked.task.header, {"group": group})
        preambles[group] = header + "".join(f"{_example(asked, shot)}\n\n" for shot in shots)
    return [_ITEMS[asked.form](asked.task, question, preambles[question.group]) for question in questions]


def _letters(task: Task, question: Question, before: str) -> Item:
    context = before + _letters_context(task, question)
    letters = LETTERS[: len(question.data["choices"])]
    pairs = tuple((context, f" {letter}") for letter in letters)
    return Item(question, pairs, (1,) * len(pairs), question.data["answer"])


def _letters_context(task: Task, question: Question) -> str:
    choices = question.data["choices"]
    lines = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, choices, strict=False))
    return _fill(task.prompt, question.data) + lines + task.word


def _cloze(task: Task, question: Question, before: str) -> Item:
    context = before + _fill(task.prompt, question.data) + task.word
    choices = [choice.strip() for choice in question.data["choices"]]
    pairs = tuple((context, f" {choice}") for choice in choices)
    return Item(question, pairs, tuple(map(len, choices)), question.data["answer"])


def _blank(task: Task, question: Question, before: str) -> Item:
    del task
    start, end = _around(question)
    pairs = tuple((f"{before}{start}{choice}", end) for choice in question.data["choices"])
    return Item(question, pairs, (1,) * len(pairs), question.data["answer"])


def _around(question: Question) -> tuple[str, str]:
    """What stands before and after the blank of a sentence."""
    start, *rest = question.data["question"].split("_")
    if len(rest) != 1 or not rest[0].strip():
        raise InputError(
            f"the question {question.data['question'][:60]!r} has no single _ with something behind it",
            hint="docs/evaluation.md has the format",
        )
    return start, rest[0]


def _generate(task: Task, question: Question, before: str) -> Item:
    prompt = before + _fill(task.prompt, question.data) + task.word
    accepted = (question.data["target"],) if task.kind == "translation" else tuple(question.data["answers"])
    job = Continuation(prompt, task.until, task.most_new_tokens)
    return Item(question, continuation=job, accepted=accepted)


_ITEMS: Mapping[Form, Callable[[Task, Question, str], Item]] = {
    "letters": _letters,
    "cloze": _cloze,
    "blank": _blank,
    "generate": _generate,
}


def _example(asked: AskedTask, shot: Question) -> str:
    """A question with its answer."""
    task, data = asked.task, shot.data
    if asked.form == "letters":
        return f"{_letters_context(task, shot)} {LETTERS[data['answer']]}"
    if asked.form == "cloze":
        return f"{_fill(task.prompt, data)}{task.word} {data['choices'][data['answer']].strip()}"
    if asked.form == "blank":
        start, end = _around(shot)
        return f"{start}{data['choices'][data['answer']]}{end}"
    answer = data["target"] if task.kind == "translation" else data["answers"][0]
    return f"{_fill(task.prompt, data)}{task.word} {answer}"


def _fill(template: str, data: Mapping[str, Any]) -> str:
    """A template with the texts of a document in it; braces in these stay as they are."""
    for field in ("question", "source", "group"):
        template = template.replace(f"{{{field}}}", f"\0{field}\0")
    for field in ("question", "source", "group"):
        template = template.replace(f"\0{field}\0", str(data.get(field, "")).strip())
    return template
