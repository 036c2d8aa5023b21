"""A sweep as one HTML page, and as rows of a table."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from typing import Any

from helium_edge.report import charts, numbers
from helium_edge.report.evaluation import change
from helium_edge.report.html import STYLE, make_environment, require_html

TEMPLATE = "sweep.html.jinja"

COLUMNS = ["recipe", "size", "difference", "KLD", "tokens/s", "front"]


def cells_of(row: Mapping[str, Any]) -> list[str]:
    """A recipe as cells of a table; `COLUMNS` names them."""
    return [
        row["recipe"],
        numbers.size(row["bytes"]),
        _both(change(row["difference"], row["se"])),
        _both(numbers.error(row["kld"], row["kld_se"])),
        numbers.figure(row["decode_tokens_per_second"]),
        "yes" if row["pareto"] else "",
    ]


def render_sweep_html(document: Mapping[str, Any]) -> str:
    """One self-contained page: no script, no request.

    Raises:
        MissingDependencyError: The extra `report` is not installed.
    """
    require_html()
    files = importlib.resources.files(__package__ or "")
    template = make_environment().from_string(files.joinpath(TEMPLATE).read_text(encoding="utf-8"))
    rows = document["recipes"]
    evaluated = [row for row in rows if row["evaluation"] is not None]
    tasks = [] if not evaluated else evaluated[0]["evaluation"]["tasks"]
    page: str = template.render(
        document=document,
        style=files.joinpath(STYLE).read_text(encoding="utf-8"),
        columns=COLUMNS,
        rows=[cells_of(row) for row in rows],
        quality=_plot(rows, "kld", "kld_se", "mean KLD, nats"),
        points=_plot(rows, "difference", "se", "points, mean of tasks"),
        recipes=[row["recipe"] for row in evaluated],
        tasks=[_task(index, task, evaluated) for index, task in enumerate(tasks)],
    )
    return page


def _plot(rows: Any, key: str, error: str, axis: str) -> str:
    known = [row for row in rows if row[key] is not None]
    points = [(row["recipe"], row["bytes"] / 1e6, row[key], row[error] or 0.0, row["pareto"]) for row in known]
    found = charts.trade_off(points, axis, f"{axis}, by size")
    # Two of one kind on a page: their names must differ.
    return found.replace("tradeoff-", f"tradeoff-{key}-")


def _task(index: int, task: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    found = [row["evaluation"]["tasks"][index] for row in rows]
    return {
        "name": f"{task['title']}, {task['form'] if task['metric'] not in ('bleu', 'chrf') else task['metric']}",
        "n": f"{task['n']:,}",
        "original": numbers.NONE if task["original"] is None else f"{task['original']:.1f}",
        "cells": [(f"{each['artifact']:.1f}", _both(change(each["difference"], each["se"]))) for each in found],
    }


def _both(pair: tuple[str, str]) -> str:
    return f"{pair[0]} \u00b1 {pair[1]}" if pair[1] else pair[0]
