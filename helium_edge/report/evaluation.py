"""Evaluation documents as people and CI systems read them: an HTML page, JUnit XML, Markdown."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from helium_edge.durable import replace_file
from helium_edge.report import charts, numbers
from helium_edge.report.files import check_destinations
from helium_edge.report.html import STYLE, make_environment, require_html
from helium_edge.report.junit import Case, render_suites
from helium_edge.report.markdown import plain_text

Document = Mapping[str, Any]

TEMPLATE = "evaluation.html.jinja"

FORMS = {
    "letters": "choices by letter",
    "cloze": "choices as continuations",
    "blank": "choices in a blank",
    "generate": "written answers",
    "official": "as lm-eval's task asks",
}
METRICS = {
    "accuracy": "accuracy",
    "accuracy_per_character": "accuracy, by log-probability per character",
    "exact_match": "exact match",
    "bleu": "BLEU",
    "chrf": "chrF",
}
HEADLINES = {
    "passed": "The artifact answers as its original does",
    "failed": "The artifact answers surely worse than its gates allow",
    "undecided": "Too close to the gates to tell",
    "not judged": "Measured; there was no gate to judge by",
}


def write_evaluation(
    document: Document, *, html: Path | None = None, junit: Path | None = None, markdown: Path | None = None
) -> list[Path]:
    """Write a document in the forms that are asked for, each file in one step; returns the files.

    Raises:
        UsageError: See `check_destinations`.
        MissingDependencyError: Likewise.
    """
    check_destinations(html=html, others=(junit, markdown))
    wanted: list[tuple[Path | None, Callable[[Document], str]]] = [
        (html, render_evaluation_html),
        (junit, render_evaluation_junit),
        (markdown, render_evaluation_markdown),
    ]
    made = [(path, render(document)) for path, render in wanted if path is not None]
    for path, text in made:
        replace_file(path, text.encode("utf-8"))
    return [path for path, _ in made]


def render_evaluation_html(document: Document) -> str:
    """One self-contained page: no script, no request.

    Raises:
        MissingDependencyError: The extra `report` is not installed.
    """
    require_html()
    files = importlib.resources.files(__package__ or "")
    template = make_environment().from_string(files.joinpath(TEMPLATE).read_text(encoding="utf-8"))
    rows = [row for row in document["tasks"] if row["difference"] is not None]
    drawn = [(_short(row), row["difference"], *row["interval"]) for row in rows if None not in row["interval"]]
    mean = document["mean"]
    page: str = template.render(
        document=document,
        style=files.joinpath(STYLE).read_text(encoding="utf-8"),
        headline=HEADLINES[document["verdict"]],
        summary=summary(document),
        chart=charts.differences(drawn, document["gates"]["any"]),
        rows=[_cells(row) for row in document["tasks"]],
        mean=None if mean is None else change(mean["difference"], mean["se"]),
        forms=FORMS,
        metrics=METRICS,
    )
    return page


def render_evaluation_junit(document: Document) -> str:
    """Each gate a test case, and each task; a failing document has a failing case for each of its failures."""
    cases = []
    for row in document["tasks"]:
        text = f"{row['task']} {row['form']} {row['metric']}: {_line(row)}"
        cases.append(Case(f"{row['task']} {row['form']} {row['metric']}", None, output=text))
    gates = [Case(line.partition(" points")[0], line) for line in document["failures"]]
    if document["mean"] is not None and document["mean"]["verdict"] not in (None, "worse"):
        gates.append(Case("mean", None, output=f"{document['mean']['verdict']}: {document['mean']['difference']}"))
    facts = {
        f"subject.{name}": value for name, value in document["subject"].items() if isinstance(value, str | int)
    }
    suites: list[tuple[str, list[Case], Mapping[str, Any]]] = [("tasks", cases, facts)]
    if gates:
        suites.append(("gates", gates, {}))
    return render_suites(
        "evaluation", f"evaluation of {document['subject']['bundle']}", suites, document["seconds"]
    )


def render_evaluation_markdown(document: Document) -> str:
    """A verdict and one table, also fit for a model card."""
    sign = {"passed": "\u2705", "failed": "\u274c"}.get(document["verdict"], "\u2139\ufe0f")
    lines = [f"### {sign} {HEADLINES[document['verdict']]}", "", plain_text(summary(document)), ""]
    lines += [f"- {plain_text(line)}" for line in (*document["failures"], *document["notes"])]
    lines += [
        "",
        "| task | form | shots | n | original | artifact | change | 95 % | lost/gained | changed | published |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in document["tasks"]:
        cells = _cells(row)
        words = [
            plain_text(row["title"]), _asked(row), row["shots"], f"{row['n']:,}", cells["original"],
            cells["artifact"], _both(cells["difference"]), cells["interval"], cells["flips"], cells["changed"],
            cells["published"],
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, words))} |")
    return "\n".join(lines) + "\n"


def summary(document: Document) -> str:
    """What was found, in one or two sentences."""
    mean, count = document["mean"], len({row["task"] for row in document["tasks"]})
    asked = f"{count} task{'s' if count != 1 else ''}, {sum(row['n'] for row in document['tasks']):,} questions."
    if mean is None:
        return asked
    return f"{asked} Mean difference to the original: {_both(change(mean['difference'], mean['se']))} points."


def change(value: float | None, standard_error: float | None) -> tuple[str, str]:
    """A difference in points with its sign, and its error."""
    if value is None:
        return numbers.NONE, ""
    shown, error = numbers.error(abs(value), standard_error)
    sign = "" if not set(shown) & set("123456789") else "\u2212" if value < 0 else "+"
    return f"{sign}{shown}", error


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    interval = row["interval"]
    ends = [] if interval is None else [change(end, row["se"])[0] for end in interval]
    return {
        "row": row,
        "asked": _asked(row),
        "original": _percent(row["original"]),
        "artifact": _percent(row["artifact"]),
        "published": _percent(row["published"]),
        "difference": change(row["difference"], row["se"]),
        "interval": f"{ends[0]} to {ends[1]}" if ends else numbers.NONE,
        "flips": numbers.NONE if row["lost"] is None else f"{row['lost']} / {row['gained']}",
        "changed": numbers.NONE if row["changed"] is None else f"{row['changed']:,}",
        "p": numbers.figure(row["mcnemar_p"], 2),
        "margin": change(row["margin_change"], row["margin_change_se"]),
        "state": {"worse": "failed", "holds": "passed", "undecided": "noise"}.get(row["verdict"] or "", ""),
        "word": {"worse": "worse", "holds": "holds", "undecided": "undecided"}.get(row["verdict"] or "", ""),
    }


def _percent(value: float | None) -> str:
    return numbers.NONE if value is None else f"{value:.1f}"


def _asked(row: Mapping[str, Any]) -> str:
    return row["form"] if row["metric"] not in ("bleu", "chrf") else METRICS[row["metric"]]


def _short(row: Mapping[str, Any]) -> str:
    return f"{row['task']}, {_asked(row)}"


def _both(pair: tuple[str, str]) -> str:
    return f"{pair[0]} \u00b1 {pair[1]}" if pair[1] else pair[0]


def _line(row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return f"{row['artifact']:.2f} % of {row['n']}"
    return (
        f"{row['artifact']:.2f} %, original {row['original']:.2f} %, difference {row['difference']:+.2f} points, "
        f"n {row['n']}, {row['verdict'] or 'not judged'}"
    )
