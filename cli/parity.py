"""`helium-edge parity`: does the exported graph agree with the original model?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from helium_edge.errors import ParityError

from . import _console, _parity_view
from ._options import (
    BaselineOption,
    BundleArgument,
    HtmlOption,
    JsonOption,
    JunitOption,
    MarkdownOption,
    RevisionOption,
    StaticOption,
    ThreadsOption,
    UnverifiedOption,
    UpdateBaselineOption,
    revision_words,
)
from ._parity_outputs import Outputs

if TYPE_CHECKING:
    from helium_edge.parity.text_report import TextReport

EPILOG = """\b
Examples:
  helium-edge parity tiny
  helium-edge parity tiny --checkpoint DIR --tokens 2000 --json
  helium-edge parity tiny --html parity.html --junit parity.xml
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("parity", short_help="Compare a bundle with the original model.", epilog=EPILOG)(parity)


def parity(
    bundle: BundleArgument,
    revision: RevisionOption = None,
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
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Show the error of every operation of every layer, also when all is well."),
    ] = False,
    oracle: Annotated[
        Literal["optimum"] | None,
        typer.Option(
            metavar="NAME",
            help="A second oracle beside transformers: optimum, its stock ONNX export (extra optimum).",
        ),
    ] = None,
    this_processor: Annotated[
        bool,
        typer.Option(
            "--this-processor",
            help="Judge as this kind of processor computes alone, and not also as the others do: faster.",
        ),
    ] = False,
    threads: ThreadsOption = 0,
    static: StaticOption = False,
    unverified: UnverifiedOption = False,
    html: HtmlOption = None,
    junit: JunitOption = None,
    markdown: MarkdownOption = None,
    baseline: BaselineOption = None,
    update_baseline: UpdateBaselineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a bundle with the original model in transformers, on text in six languages.

    Ends with exit code 4 when a gate of the bundle's recipe, a check or the baseline does not hold; the files that
    were asked for are written then too. docs/parity.md explains what is found.
    """
    from helium_edge.bundle import resolve_bundle
    from helium_edge.parity.check import check
    from helium_edge.parity.text_report import TextReport
    from helium_edge.parity.verdict import in_one_line
    from helium_edge.texts import TextSource

    outputs = Outputs(html, junit, markdown, baseline, update_baseline)
    before = outputs.check()
    with _console.progress() as progress:
        report = check(
            resolve_bundle(bundle, revision=revision),
            checkpoint=checkpoint,
            text=TextSource(text, tokens),
            store=store,
            layers=layers,
            oracle=oracle,
            decoders_only=outputs != Outputs(),
            elsewhere=not this_processor,
            threads=threads,
            static=static,
            unverified=unverified,
            progress=progress,
        )
    if isinstance(report, TextReport):
        _finish_text(bundle, revision, report, as_json=as_json)
        return
    report = outputs.compare(report, before)
    document = report.to_json()
    if not as_json:
        _parity_view.show_parity(document)
    outputs.write(document)
    if document["failures"]:
        raise ParityError(
            f"{bundle}: {in_one_line(document['failures'])}",
            hint="a float32 export (--recipe onnx-fp32) tells a fault of the graphs from the cost of quantization",
            report=report,
        )
    if as_json:
        _console.document({"bundle": str(bundle), "parity": document})
    _console.next_step("generate", bundle, *revision_words(revision), "Edge AI")


def _finish_text(bundle: Path, revision: str | None, report: TextReport, *, as_json: bool) -> None:
    """Show the comparison of a classifier or encoder; it has no levels and no files of its own."""
    from helium_edge.parity.verdict import in_one_line

    from ._text_view import show_text_parity

    if not as_json:
        show_text_parity(report)
    if report.failures:
        raise ParityError(
            f"{bundle}: {in_one_line(report.failures)}",
            hint="a float32 export (--recipe onnx-fp32) tells a fault of the graphs from the cost of quantization",
            report=report,
        )
    if as_json:
        _console.document({"bundle": str(bundle), "parity": report.to_json()})
    _console.next_step("inspect", bundle, *revision_words(revision))
