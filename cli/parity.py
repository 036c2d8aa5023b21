"""`helium-edge parity`: does the exported graph agree with the original model?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helium_edge.errors import ParityError

from . import _arm64_view, _console, _views
from ._options import BundleArgument, JsonOption, StaticOption, ThreadsOption, UnverifiedOption

EPILOG = """\b
Examples:
  helium-edge parity tiny
  helium-edge parity tiny --checkpoint DIR --tokens 2000 --json
  helium-edge parity tiny --arm64
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
    text: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="Compare on this text instead: UTF-8, or .jsonl with text and language.",
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, metavar="DIR", help="Quantized weights of `export --store`; else they are made anew."
        ),
    ] = None,
    threads: ThreadsOption = 0,
    static: StaticOption = False,
    arm64: Annotated[
        bool,
        typer.Option(
            "--arm64",
            help="Also run it on an emulated ARM64 processor, and compare; docs/arm64.md has what that needs.",
        ),
    ] = False,
    unverified: UnverifiedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a bundle with the original model in transformers, on text in six languages.

    Ends with exit code 4 when a gate of the bundle's recipe does not hold.
    """
    from helium_edge import pipeline

    emulated = None
    with _console.progress() as progress:
        if arm64:
            from helium_edge.arm64 import check_arm64

            emulated = check_arm64(bundle, unverified=unverified, on_stage=progress.stage)
        report = pipeline.check(
            bundle,
            checkpoint=checkpoint,
            text=pipeline.Text(text, tokens),
            store=store,
            threads=threads,
            static=static,
            unverified=unverified,
            progress=progress,
        )
    failures = [*report.failures, *(emulated.failures if emulated is not None else ())]
    both = report if emulated is None else _arm64_view.WithArm64(report, emulated)
    if not as_json:
        _views.show_parity(report)
        if emulated is not None:
            _arm64_view.show_arm64(emulated)
    if failures:
        raise ParityError(
            f"{bundle}: {'; '.join(failures)}",
            hint="a float32 export (--recipe onnx-fp32) tells a fault of the graphs from the cost of quantization",
            report=both,
        )
    if as_json:
        _console.document({"bundle": str(bundle), "parity": both.to_json()})
    _console.next_step("generate", bundle, "Edge AI")
