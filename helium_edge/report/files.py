"""Writing reports to files: asked for before a long run, written in one step after it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from helium_edge.durable import replace_file
from helium_edge.errors import UsageError
from helium_edge.parity.document import Document
from helium_edge.report.html import render_html, require_html
from helium_edge.report.junit import render_junit
from helium_edge.report.markdown import render_markdown


def check_destinations(*, html: Path | None = None, others: tuple[Path | None, ...] = ()) -> None:
    """Check before a long run that its reports can be written after it.

    Args:
        html: Where the page is to go; None for no page.
        others: Further files.

    Raises:
        UsageError: A folder is not there or may not be written to.
        MissingDependencyError: The page needs the extra `report`.
    """
    for path in (html, *others):
        if path is None:
            continue
        if path.is_dir():
            raise UsageError(f"{path}: is a folder", hint="name a file in it")
        if not path.parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.parent}", hint=f"mkdir -p {path.parent}")
        if not os.access(path.parent, os.W_OK) and not path.exists():
            raise UsageError(f"{path}: not permitted to write in {path.parent}")
    if html is not None:
        require_html()


def write_reports(
    document: Document, *, html: Path | None = None, junit: Path | None = None, markdown: Path | None = None
) -> list[Path]:
    """Write a document in the forms that are asked for, each file in one step.

    Returns:
        The files.

    Raises:
        UsageError: See `check_destinations`.
        MissingDependencyError: Likewise.
    """
    check_destinations(html=html, others=(junit, markdown))
    wanted: list[tuple[Path | None, Callable[[Document], str]]] = [
        (html, render_html),
        (junit, render_junit),
        (markdown, render_markdown),
    ]
    # All are made before the first is written.
    made = [(path, render(document)) for path, render in wanted if path is not None]
    for path, text in made:
        replace_file(path, text.encode("utf-8"))
    return [path for path, _ in made]
