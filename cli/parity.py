"""`helium-edge parity`: does the exported graph agree with the original model?"""

from __future__ import annotations

from typing import Annotated

import typer

from helium_edge.errors import ParityError

from . import _console, _views
from ._options import BundleArgument, JsonOption, StaticOption, ThreadsOption, UnverifiedOption

EPILOG = """\b
Examples:
  helium-edge parity tiny
  helium-edge parity tiny --checkpoint DIR --tokens 2000 --json
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("parity", short_help="Compare a bundle with the original model.", epilog=EPILOG)(parity)


def parity(
    bundle: BundleArgument,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="The original: a folder, a Hub id, or helium-tiny. By default the one that the bundle names.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="About how many tokens to compare on, over all languages; 0 is all the text."
        ),
    ] = 0,
    threads: ThreadsOption = 0,
    static: StaticOption = False,
    unverified: UnverifiedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a bundle with the original model in transformers, on text in six languages.

    Ends with exit code 4 when a gate of the bundle's recipe does not hold.
    """
    from helium_edge import pipeline

    with _console.progress() as progress:
        report = pipeline.check(
            bundle,
            checkpoint=checkpoint,
            tokens=tokens,
            threads=threads,
            static=static,
            unverified=unverified,
            progress=progress,
        )
    if not as_json:
        _views.show_parity(report)
    if not report.passed:
        raise ParityError(
            f"{bundle}: {'; '.join(report.failures)}",
            hint="a float32 export (--recipe onnx-fp32) tells a fault of the graphs from the cost of quantization",
            report=report,
        )
    if as_json:
        _console.document({"bundle": str(bundle), "parity": report.to_json()})
    _console.next_step("generate", bundle, "Edge AI")
