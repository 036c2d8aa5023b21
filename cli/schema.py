"""`helium-edge schema`: the JSON Schema of what helium-edge writes, for hosts and scripts in any language."""

from __future__ import annotations

import importlib
from typing import Annotated, Literal

import typer

EPILOG = """\b
Examples:
  helium-edge schema manifest > helium-edge.schema.json
  helium-edge schema parity > parity.schema.json
"""


Document = Literal["manifest", "parity", "bench", "evaluation", "sweep"]

_PACKAGES: dict[Document, str] = {
    "manifest": "bundle",
    "parity": "parity",
    "bench": "bench",
    "evaluation": "evaluate",
    "sweep": "sweep",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("schema", short_help="Print the JSON Schema of a document.", epilog=EPILOG)(schema)


def schema(
    document: Annotated[
        Document,
        typer.Argument(
            help="manifest: helium-edge.json of a bundle; parity, bench, evaluation, sweep: what --json prints.",
            show_default=False,
        ),
    ],
) -> None:
    """Print the JSON Schema (draft 2020-12) of a document that helium-edge writes."""
    module = importlib.import_module(f"helium_edge.{_PACKAGES[document]}.schema")
    typer.echo(module.document_schema(), nl=False)
