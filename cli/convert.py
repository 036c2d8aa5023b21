"""`helium-edge convert`: a checkpoint with fewer key-value heads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from . import _console
from ._format import figure, size
from ._options import JsonOption, RevisionOption

EPILOG = """\b
Examples:
  helium-edge convert helium-tiny --kv-heads 1 -o tiny-mqa
  helium-edge convert DIR --kv-heads 5 -o DIR-gqa --no-measure
"""

WARNING = (
    "quality drops without uptraining: the paper (arXiv 2305.13245) trains the converted model for another 5 % of "
    "the original steps. Do that before you ship it"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("convert", short_help="Pool key-value heads of a checkpoint (MHA to GQA).", epilog=EPILOG)(convert)


def convert(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A folder, a Hub id, or helium-tiny.", show_default=False)
    ],
    kv_heads: Annotated[
        int,
        typer.Option(min=1, metavar="G", help="Key-value heads of the new checkpoint.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The checkpoint to write.", show_default=False)
    ],
    revision: RevisionOption = None,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Do not measure the perplexity before and after.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint whose key and value heads are the means of contiguous groups: a smaller cache.

    It is an ordinary checkpoint, and quality drops until it is trained further.
    """
    from helium_edge import convert as conversion

    with _console.progress() as progress:
        result = conversion.convert(
            checkpoint, kv_heads, output, revision=revision, measure=not no_measure, progress=progress
        )
    if as_json:
        _console.document({**asdict(result), "checkpoint": str(result.checkpoint), "warning": WARNING})
    else:
        before, after = result.cache_bytes_per_token_before, result.cache_bytes_per_token
        measured = (
            "not measured (--no-measure)"
            if result.ppl is None
            else f"{figure(result.ppl_before, 4)} before, {figure(result.ppl, 4)} after, {result.tokens:,} tokens"
        )
        _console.fields(
            [
                ("checkpoint", result.checkpoint),
                ("key-value heads", f"{result.kv_heads_before} before, {result.kv_heads} after"),
                ("float32 cache", f"{size(before)} a token before, {size(after)} after"),
                ("perplexity", measured),
            ]
        )
    _console.line_with_label("warning", WARNING, "bold yellow")
    _console.next_step("export", output, "--recipe", "onnx-int4", "--dry-run")
