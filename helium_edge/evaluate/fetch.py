"""Data sets from the Hub, written as the JSON lines that tasks read; the one part that needs a network."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from helium_edge.documents import first_line
from helium_edge.durable import replace_file
from helium_edge.errors import InputError, MissingDependencyError, UsageError
from helium_edge.evaluate.questions import SHOTS, SUMS, TEST, check_document
from helium_edge.evaluate.task import Source, Task, find_tasks, unknown_task
from helium_edge.progress import SILENT, Progress

_BRACKETS = re.compile(r"\[.*?\]")
_SHOTS_KEPT = 64
"""Examples of a group that are kept: no task shows more."""


def fetch_tasks(words: Iterable[str], folder: Path, progress: Progress = SILENT) -> dict[str, int]:
    """Fetch the data of tasks and write it; files of other tasks stay, and the list of sums has all.

    Returns:
        Lines by file, of what was written.

    Raises:
        UsageError: No such task, or one without a source.
        MissingDependencyError: The extra `eval` is not installed.
        InputError: A data set cannot be fetched, or its rows are not what the task expects.
    """
    tasks, others = find_tasks(words)
    if others:
        raise unknown_task(others[0])
    written: dict[str, int] = {}
    for task in {asked.task.name: asked.task for asked in tasks}.values():
        if task.source is None:
            raise UsageError(f"task {task.name} has nothing to fetch", hint="its questions come with helium-edge")
        for name, split in ((TEST, task.source.test), (SHOTS, task.source.shots)):
            if split is None:
                continue
            progress.stage(f"fetch {task.name}: {split}")
            rows = load_rows(task.source, split)
            documents = list(convert_rows(task, rows, split))
            if name == SHOTS:
                documents = _first_of_each_group(documents)
            lines = "".join(json.dumps(each, sort_keys=True, ensure_ascii=False) + "\n" for each in documents)
            path = folder / task.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lines.encode("utf-8"))
            written[f"{task.name}/{name}"] = len(documents)
    write_sums(folder)
    return written


def write_sums(folder: Path) -> None:
    """Write the list of sums of all data in a folder."""
    files = sorted(folder.glob("*/*.jsonl"))
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}" for path in files
    ]
    replace_file(folder / SUMS, ("\n".join(lines) + "\n").encode("utf-8"))


def load_rows(source: Source, split: str) -> Iterable[Mapping[str, Any]]:
    """Rows of a data set, by the library of the Hub.

    Raises:
        MissingDependencyError: It is not installed.
        InputError: They cannot be fetched.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError("datasets", extra="eval", purpose="--fetch") from error

    def load(config: str | None) -> Any:
        try:
            if source.dataset.startswith("https://"):
                return datasets.load_dataset("json", data_files=source.dataset, split=split)
            return datasets.load_dataset(source.dataset, config, split=split)
        except Exception as error:  # the library raises several unrelated types
            raise InputError(
                f"{source.dataset}: cannot be fetched: {first_line(error)}",
                hint="this needs a network; a data set with terms needs an account that accepted them (HF_TOKEN)",
            ) from error

    rows = load(source.config)
    if source.other is None:
        return list(rows)
    return [{**row, "other": other} for row, other in zip(rows, load(source.other), strict=True)]


def convert_rows(task: Task, rows: Iterable[Mapping[str, Any]], split: str) -> Iterator[dict[str, Any]]:
    """Documents of rows, by the expressions of the task's source.

    Raises:
        InputError: A row is not what they expect; its number and the key are named.
    """
    source = task.source
    assert source is not None
    from jinja2 import TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment()
    expressions = {name: environment.compile_expression(text) for name, text in source.row.items()}
    keep = None if source.keep is None else environment.compile_expression(source.keep)
    for number, row in enumerate(rows):
        where = f"{source.dataset} {source.config or ''} {split}, row {number}".replace("  ", " ")
        try:
            if keep is not None and not keep(**row):
                continue
            fields = {name: _plain(found(**row)) for name, found in expressions.items()}
        except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise InputError(f"{where}: not as the task {task.name} expects: {first_line(error)}") from error
        if task.kind == "answer" and isinstance(fields.get("answers"), list):
            fields["answers"] = list(dict.fromkeys(each for each in fields["answers"] if each))
        if source.clean == "brackets":
            fields = {name: _without_brackets(value) for name, value in fields.items()}
        document = {"id": f"{split}/{number}", **fields}
        problem = check_document(task, document)
        if problem is not None:
            raise InputError(f"{where}: {problem}")
        yield document


def _first_of_each_group(documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for document in documents:
        group = found.setdefault(str(document.get("group", "")), [])
        if len(group) < _SHOTS_KEPT:
            group.append(document)
    return [document for group in found.values() for document in group]


def _plain(value: Any) -> Any:
    """A value as JSON has it; whole numbers that a library made floats or numpy's are ints again."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, str | bool) or value is None:
        return value
    with suppress(TypeError, ValueError):
        if int(value) == value:
            return int(value)
    return value


def _without_brackets(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_brackets(each) for each in value]
    if not isinstance(value, str):
        return value
    return " ".join(_BRACKETS.sub("", value.replace(" [title]", ". ")).split())
