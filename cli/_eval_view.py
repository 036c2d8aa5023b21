"""How an evaluation is shown on a terminal: a line for each task, the mean, and whatever was judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import _console


def show_evaluation(document: Mapping[str, Any], *, stderr: bool = False) -> None:
    """Show a run."""
    from helium_edge.report.evaluation import HEADLINES, change, summary

    subject = document["subject"]
    _console.title(f"Evaluation of {subject['bundle']}: {document['verdict']}", stderr=stderr)
    judged = document["gates"]["any"] is not None
    paired = any(row["difference"] is not None for row in document["tasks"])
    columns = ["task", "n", *(["orig."] if paired else []), "artif."]
    columns += ["points", "\u2212/+"] if paired else []
    columns += ["gate"] if judged else []
    rows = []
    for row in document["tasks"]:
        metric = row["metric"] if row["metric"] in ("bleu", "chrf") else row["form"]
        cells = [f"{row['task']} {metric}", f"{row['n']:,}", f"{row['artifact']:.1f}"]
        if paired:
            value, error = change(row["difference"], row["se"])
            flips = "" if row["lost"] is None else f"{row['lost']}/{row['gained']}"
            cells.insert(2, f"{row['original']:.1f}")
            cells += [f"{value} \u00b1 {error}" if error else value, flips]
        if judged:
            told = "FAILED" if row["verdict"] == "worse" else row["verdict"] or ""
            cells.append("too few" if row["too_few"] and told == "undecided" else told)
        rows.append(cells)
    _console.table(columns, rows, right=columns[1:-1] if judged else columns[1:], stderr=stderr)
    _console.line("", stderr=stderr)
    _console.line(f"{HEADLINES[document['verdict']]}. {summary(document)}", stderr=stderr)
    for name, work in document["work"].items():
        if work["fed"]:
            text = f"{name}: {work['requests']:,} requests, {work['fed']:,} tokens run of {work['asked']:,}"
            _console.line(text, stderr=stderr)
    for note in document["notes"]:
        _console.line(f"note: {note}", stderr=stderr)
