"""`helium-edge eval`: does the artifact answer benchmarks as its original does?"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helium_edge.errors import ParityError, UsageError

from . import _console
from ._options import (
    HtmlOption,
    JsonOption,
    JunitOption,
    MarkdownOption,
    RevisionOption,
    ThreadsOption,
    UnverifiedOption,
    revision_words,
)

if TYPE_CHECKING:
    from helium_edge.evaluate.official import OfficialTasks
    from helium_edge.recipe import TaskDrop

EPILOG = """\b
Examples:
  helium-edge eval tiny --tasks built-in --limit 100
  helium-edge eval --fetch card-en --data DIR
  helium-edge eval tiny --tasks card-en,FILE.yaml --data DIR --html eval.html
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval", short_help="Ask a bundle benchmarks, beside its original.", epilog=EPILOG)(evaluate)


def evaluate(
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="[BUNDLE]", help="Folder of a bundle, or a Hub id: org/name.", show_default=False),
    ] = None,
    revision: RevisionOption = None,
    tasks: Annotated[
        str,
        typer.Option(
            metavar="T,T",
            help="Groups (built-in, card-en, -de, -es, -multilingual), tasks, TASK:FORM, files of tasks.",
        ),
    ] = "built-in",
    data: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, metavar="DIR", help="Questions, as --fetch writes them.", show_default=False
        ),
    ] = None,
    fetch: Annotated[
        str | None,
        typer.Option(
            metavar="T,T",
            help="Write the questions of these tasks to --data; needs a network and the extra eval.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Questions of a task: a sample that is part of every larger one; 0 is all."
        ),
    ] = 1000,
    original: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="The original: a folder, a Hub id or helium-tiny; by default the one that the bundle names.",
            show_default=False,
        ),
    ] = None,
    no_original: Annotated[
        bool, typer.Option("--no-original", help="Ask the bundle alone; nothing is compared or judged.")
    ] = False,
    task_drop: Annotated[
        str | None,
        typer.Option(
            metavar="MEAN,ANY",
            help="Points that the mean and any task may lose, in place of the recipe's gates.",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            metavar="DIR",
            help="Folder of answers, computed once; by default HELIUM_EDGE_CACHE.",
            show_default=False,
        ),
    ] = None,
    record: Annotated[
        bool,
        typer.Option("--record", help="Also write the document beside the bundle, as BUNDLE.evaluation.json."),
    ] = False,
    threads: ThreadsOption = 0,
    unverified: UnverifiedOption = False,
    html: HtmlOption = None,
    junit: JunitOption = None,
    markdown: MarkdownOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a bundle and its original the same questions, and compare their answers one by one.

    Ends with exit code 4 when a gate surely does not hold; the files that were asked for are written then too.
    docs/evaluation.md explains tasks, data and figures.
    """
    if fetch is not None:
        _fetch(fetch, data, as_json=as_json)
        return
    if bundle is None:
        raise UsageError("Missing argument 'BUNDLE'", hint="`helium-edge eval --help` shows what is allowed")
    if record and not bundle.is_dir():
        raise UsageError(
            f"--record: {bundle} is no folder to write beside", hint="use --json, or download it first"
        )
    gates = _gates(task_drop)
    from helium_edge.evaluate.plan import plan

    ours, others = _split(_words(tasks))
    planned = plan(ours, data, limit) if ours or not others else []  # before anything heavy is imported
    official = _official(others, data, limit)
    from helium_edge.bundle import resolve_bundle
    from helium_edge.evaluate.run import evaluate as run
    from helium_edge.report import check_destinations
    from helium_edge.report.evaluation import write_evaluation
    from helium_edge.user_cache import cache_folder

    from ._eval_view import show_evaluation

    beside = bundle.with_name(f"{bundle.name}.evaluation.json") if record else None
    check_destinations(html=html, others=(junit, markdown, beside))
    with _console.progress() as progress:
        document = run(
            resolve_bundle(bundle, revision=revision),
            planned,
            store or cache_folder(),
            original=not no_original,
            checkpoint=original,
            gates=gates,
            limit=limit,
            threads=threads,
            unverified=unverified,
            official=official,
            progress=progress,
        )
    if not as_json:
        show_evaluation(document)
    for path in write_evaluation(document, html=html, junit=junit, markdown=markdown):
        _console.note(f"written: {path}")
    if beside is not None:
        _write_json(beside, document)
    if document["failures"]:
        raise ParityError(
            f"{bundle}: {'; '.join(document['failures'])}",
            hint="another recipe, or other gates; --html shows where it lost",
            report=_Report(document),
        )
    if as_json:
        _console.document({"bundle": str(bundle), "evaluation": document})
    _console.next_step("parity", bundle, *revision_words(revision))


class _Report:
    """The document of a failure, for the command line to print."""

    key = "evaluation"

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def to_json(self) -> dict[str, Any]:
        """As it is."""
        return self._document


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Words that name tasks of ours, and those that may name tasks of lm-eval.

    Raises:
        UsageError: There are others, and lm-eval is not here to know them.
    """
    from helium_edge.evaluate.task import find_tasks, unknown_task

    _, others = find_tasks(words)
    if others and importlib.util.find_spec("lm_eval") is None:
        raise unknown_task(others[0])
    return [word for word in words if word not in others], others


def _official(words: list[str], data: Path | None, limit: int) -> OfficialTasks | None:
    if not words:
        return None
    from helium_edge.evaluate.official import load_official, prepare_environment

    prepare_environment(data, offline=True)
    return load_official(words, limit)


def _gates(text: str | None) -> TaskDrop | None:
    """Two numbers of points; one may be left empty.

    Raises:
        UsageError: Something else.
    """
    if text is None:
        return None
    from pydantic import ValidationError

    from helium_edge.recipe import TaskDrop

    try:
        mean, any_task = ([*text.split(","), ""])[:2] if text.count(",") < 2 else ("x", "x")
        return TaskDrop(mean=float(mean) if mean else None, any=float(any_task) if any_task else None)
    except (ValueError, ValidationError) as error:
        raise UsageError(
            f"--task-drop {text!r}: not one or two numbers of points",
            hint="--task-drop 1,3; or ,3 for tasks alone",
        ) from error


def _fetch(text: str, data: Path | None, *, as_json: bool) -> None:
    if data is None:
        raise UsageError("--fetch needs --data DIR", hint="the folder that it writes")
    from helium_edge.evaluate.fetch import fetch_tasks

    ours, others = _split(_words(text))
    if others:
        from helium_edge.evaluate.official import load_official, prepare_environment

        data.mkdir(parents=True, exist_ok=True)
        prepare_environment(data, offline=False)
        load_official(others, 1)
    with _console.progress() as progress:
        written = fetch_tasks(ours, data, progress)
    if as_json:
        _console.document({"data": str(data), "files": written})
    for name, count in written.items():
        _console.note(f"written: {data / name} ({count:,} lines)")


def _write_json(path: Path, document: dict[str, Any]) -> None:
    from helium_edge.durable import replace_file

    replace_file(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))
    _console.note(f"written: {path}")
