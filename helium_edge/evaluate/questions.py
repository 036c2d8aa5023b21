"""Documents of a task: JSON lines that are checked before anything is run, and the sample of them that is asked.

`DIR/TASK/test.jsonl` holds the questions, `DIR/TASK/shots.jsonl` the examples. `DIR/SHA256SUMS`, where there is
one, says what the files must be, in the form that `sha256sum --check` reads.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helium_edge.documents import DocumentError, first_line, parse_json, read_document
from helium_edge.errors import InputError
from helium_edge.evaluate.built_in import continuation_questions
from helium_edge.evaluate.task import Task, fields_of

MAX_DATA_BYTES = 512 << 20
MAX_LINE_BYTES = 1 << 20
SUMS = "SHA256SUMS"
TEST, SHOTS = "test.jsonl", "shots.jsonl"
DEFAULT_LIMIT = 1000
"""Questions of a task that are asked by default."""

_SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_SAMPLE = b"helium-edge/sample/1:"


@dataclass(frozen=True)
class Question:
    """A document of a task.

    Attributes:
        sha256: Of the document; the same for every model.
        data: Its fields, checked.
    """

    sha256: str
    data: Mapping[str, Any]

    @property
    def group(self) -> str:
        """Questions of a group share their examples."""
        return str(self.data.get("group", ""))


@dataclass(frozen=True)
class QuestionSet:
    """All documents of a task.

    Attributes:
        questions: What is asked.
        shots: Examples by group, in the order of the data.
        sha256: Of all data.
    """

    questions: tuple[Question, ...]
    shots: Mapping[str, tuple[Question, ...]]
    sha256: str


def read_questions(task: Task, folder: Path | None) -> QuestionSet:
    """Read the documents of a task and check every one.

    Args:
        task: The task.
        folder: Of `--data`; None where none was given.

    Raises:
        InputError: Data is missing, malformed or not what the list of sums says; file, line and key are named.
    """
    if task.built_in is not None:
        lines = [json.dumps(each, sort_keys=True) for each in continuation_questions(task.built_in)]
        found = [_question(json.loads(line)) for line in lines]
        return QuestionSet(tuple(found), {}, _sha256("\n".join(lines).encode()))
    if folder is None or not (folder / task.name / TEST).is_file():
        place = "a folder of data" if folder is None else folder / task.name / TEST
        of = f" ({task.source.dataset})" if task.source is not None else ""
        raise InputError(f"task {task.name} needs {place}, which is not there{of}", hint=_remedy(task))
    sums = _read_sums(folder)
    test_bytes, test = _read(task, folder, TEST, sums)
    shot_bytes = b""
    shots: list[Question] = []
    if task.shots:
        if (folder / task.name / SHOTS).is_file():
            shot_bytes, shots = _read(task, folder, SHOTS, sums)
        else:  # as in MKQA, which is one list: its first questions are shown, and never asked
            test, shots = _split(test, task.shots)
    by_group: dict[str, list[Question]] = {}
    for shot in shots:
        by_group.setdefault(shot.group, []).append(shot)
    taken = {group: tuple(found[: task.shots]) for group, found in by_group.items()}
    path = folder / task.name / SHOTS
    for question in test if task.shots else ():
        if len(taken.get(question.group, ())) < task.shots:
            of = f" of the group {question.group!r}" if question.group else ""
            raise InputError(f"{path}: {len(taken.get(question.group, ()))} examples{of}, {task.shots} are needed")
    shown = {shot.sha256 for found in taken.values() for shot in found}
    asked = tuple(question for question in test if question.sha256 not in shown)
    return QuestionSet(asked, taken, _sha256(test_bytes + b"\0" + shot_bytes))


def sample(questions: Sequence[Question], limit: int) -> list[Question]:
    """A subset that is the same for every model, and part of every larger one; 0 takes all.

    The order is that of a hash, not of the data: data sets are sorted by topic.
    """
    order = sorted(questions, key=lambda each: hashlib.sha256(_SAMPLE + each.sha256.encode()).digest())
    return order[: limit or None]


def check_document(task: Task, data: Any) -> str | None:
    """What is wrong with a document, in a few words that name the key; None where nothing is."""
    if not isinstance(data, dict):
        return f"no object but {type(data).__name__}"
    for field in fields_of(task.kind):
        if field not in data:
            return f"the key {field!r} is missing"
    for field in ("question", "source", "target", "group", "id"):
        value = data.get(field, "x")
        if field == "id" and isinstance(value, int) and not isinstance(value, bool):
            continue
        if not isinstance(value, str) or (not value.strip() and field != "group"):
            return f"{field}: not a text with something in it"
    for field in ("choices", "answers"):
        values = data.get(field, ["x", "y"])
        if not isinstance(values, list) or not all(isinstance(each, str) and each.strip() for each in values):
            return f"{field}: not a list of texts"
        if len(values) < (2 if field == "choices" else 1) or len(values) > 26 * (1 if field == "choices" else 100):
            return f"{field}: {len(values)} are too few or too many"
    answer = data.get("answer", 0)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(data.get("choices", "x")):
        return f"answer: {json.dumps(answer)[:40]} is no index of a choice"
    return None


def _read(task: Task, folder: Path, name: str, sums: Mapping[str, str]) -> tuple[bytes, list[Question]]:
    path = folder / task.name / name
    try:
        content = read_document(path, MAX_DATA_BYTES)
    except (OSError, DocumentError) as error:
        raise InputError(f"{path}: not readable: {first_line(error)}", hint=_remedy(task)) from error
    listed = sums.get(f"{task.name}/{name}")
    if listed is not None and _sha256(content) != listed:
        raise InputError(f"{path}: not the file that {folder / SUMS} lists", hint=_remedy(task))
    found: list[Question] = []
    seen: dict[str, int] = {}
    for number, data in _lines(path, content):
        problem = check_document(task, data)
        if problem is not None:
            raise InputError(f"{path}: line {number}: {problem}", hint="docs/evaluation.md has the format")
        question = _question(data)
        key = f"id {data['id']!r}" if "id" in data else question.sha256
        if key in seen:
            what = key if "id" in data else "this question"
            raise InputError(
                f"{path}: line {number}: {what} stands in line {seen[key]} already",
                hint="remove one, or give each line an `id` of its own if it is to count twice",
            )
        seen[key] = number
        found.append(question)
    if not found:
        raise InputError(f"{path}: has no lines", hint=_remedy(task))
    return content, found


def _lines(path: Path, content: bytes) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        if len(line) > MAX_LINE_BYTES:
            raise InputError(
                f"{path}: line {number}: {len(line)} bytes are too many, the limit is {MAX_LINE_BYTES}"
            )
        try:
            yield number, parse_json(line)
        except DocumentError as error:
            raise InputError(
                f"{path}: line {number}: {error}", hint="docs/evaluation.md has the format"
            ) from error


def _split(questions: list[Question], shots: int) -> tuple[list[Question], list[Question]]:
    """Questions without the first ones of each group, and those."""
    taken: dict[str, list[Question]] = {}
    rest: list[Question] = []
    for question in questions:
        found = taken.setdefault(question.group, [])
        (found if len(found) < shots else rest).append(question)
    return rest, [shot for found in taken.values() for shot in found]


def _read_sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    if not path.exists():
        return {}
    try:
        lines = read_document(path, 1 << 20).decode("utf-8").splitlines()
    except (OSError, DocumentError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable: {first_line(error)}") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        match = _SUM.fullmatch(line)
        if match is None:
            raise InputError(f"{path}: line {number}: no sha256 and name", hint="`sha256sum` writes such lists")
        found[match[2]] = match[1]
    return found


def _question(data: dict[str, Any]) -> Question:
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return Question(_sha256(text.encode("utf-8")), data)


def _remedy(task: Task) -> str:
    if task.source is None:
        return "docs/evaluation.md has the format of the files"
    return f"on a machine with a network: helium-edge eval --fetch {task.name} --data DIR; then --data DIR here"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
