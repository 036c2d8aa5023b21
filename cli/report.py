"""`helium-edge report`: a stored parity document as a page, as test results, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import _console, _parity_view
from ._options import HtmlOption, JsonOption, JunitOption, MarkdownOption

EPILOG = """\b
Examples:
  helium-edge parity tiny --json > parity.json
  helium-edge report parity.json --html parity.html
  helium-edge report parity.json --junit parity.xml --markdown parity.md
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", short_help="Show a stored parity run, or make a page of it.", epilog=EPILOG)(report)


def report(
    document: Annotated[
        Path, typer.Argument(metavar="FILE", help="What `parity --json` printed.", show_default=False)
    ],
    html: HtmlOption = None,
    junit: JunitOption = None,
    markdown: MarkdownOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a stored parity run, or write it as an HTML page, JUnit XML or Markdown.

    Ends with exit code 0 whether that run passed or failed.
    """
    from helium_edge.errors import InputError
    from helium_edge.parity.document import read_document
    from helium_edge.report import write_reports

    if document.is_dir():
        raise InputError(
            f"{document}: is a folder; a bundle keeps a summary of its parity, not the document",
            hint=f"helium-edge parity {document} --html FILE makes both",
        )
    found = read_document(document)
    written = write_reports(found, html=html, junit=junit, markdown=markdown)
    if as_json:
        _console.document({"passed": found["passed"], "written": list(map(str, written)), "parity": found})
    elif written:
        for path in written:
            _console.line(f"{path}: written")
    else:
        _parity_view.show_parity(found)
    if not written:
        _console.next_step("report", document, "--html", document.with_suffix(".html"))
