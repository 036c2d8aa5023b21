"""`helium-edge export`: a checkpoint becomes a verified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helium_edge.errors import ParityError, UsageError
from helium_edge.tasks import LANGUAGE_MODEL, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION

from . import _console, _parity_view, _views
from ._format import duration, size
from ._imports import heavy_imports
from ._options import JsonOption, RevisionOption, ThreadsOption
from ._overrides import override

if TYPE_CHECKING:
    from helium_edge.bundle import Manifest
    from helium_edge.exporting import ExportPlan, ExportResult

_RUNS_TEXT = {
    LANGUAGE_MODEL: "generate",
    SEQUENCE_CLASSIFICATION: "classify",
    TOKEN_CLASSIFICATION: "classify",
}
"""The command that runs a bundle, by task; none shows what an encoder returns."""

EPILOG = """\b
Examples:
  helium-edge export helium-tiny --recipe onnx-int4 -o tiny
  helium-edge export ORG/NAME --revision v1 --recipe onnx-int4 --dry-run
  helium-edge export helium-1-2b --recipe onnx-int4 --dry-run
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", short_help="Export a checkpoint to a verified bundle.", epilog=EPILOG)(export)


def export(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A folder, a Hub id, or helium-tiny.", show_default=False)
    ],
    recipe: Annotated[
        str,
        typer.Option(metavar="NAME|FILE", help="What to export: see `helium-edge recipes`.", show_default=False),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The bundle to write.", show_default=False)
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Write for this target, as onnx, xnnpack or coreml; repeatable.",
            show_default=False,
        ),
    ] = None,
    revision: RevisionOption = None,
    cache_len: Annotated[
        int | None,
        typer.Option(
            min=2, metavar="N", help="Slots of the KV cache, instead of the recipe's.", show_default=False
        ),
    ] = None,
    prefill_len: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Tokens of a prefill chunk, instead of the recipe's.", show_default=False
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep what was found for weights here; a later export, or one that goes on, reuses it.",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text to calibrate weights or an int8 KV cache on, not the built-in one: UTF-8, or .jsonl.",
            show_default=False,
        ),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Do not calibrate weights: a scale search (mse) takes seconds, at twice the loss or more.",
        ),
    ] = False,
    merge_adapter: Annotated[
        bool, typer.Option("--merge-adapter", help="Merge the LoRA adapter that lies beside the weights.")
    ] = False,
    generation_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Take stop ids and sampling from this file, instead of the checkpoint's generation_config.json.",
            show_default=False,
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse a checkpoint of which anything is ignored, replaced or guessed."),
    ] = False,
    threads: ThreadsOption = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that stands at DIR.")] = False,
    no_parity: Annotated[
        bool, typer.Option("--no-parity", help="Publish without comparing with the original model.")
    ] = False,
    no_verify: Annotated[bool, typer.Option("--no-verify", hidden=True, help="Old name of --no-parity.")] = False,
    no_run: Annotated[
        bool,
        typer.Option(
            "--no-run",
            help="Publish without running the result at all, on a machine that has too little memory for it.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the plan and its sizes; write nothing. Takes the presets of `inspect` as well.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Export a checkpoint to a bundle: quantize, build, compare with the original, publish.

    The bundle appears at DIR complete and verified, or not at all.
    """
    if no_verify:
        _console.note("note: --no-verify is now --no-parity: `helium-edge verify` checks files, parity the model")
    no_parity = no_parity or no_verify
    if output is None and not dry_run:
        raise UsageError("export needs -o DIR, the bundle to write", hint="or --dry-run, which writes nothing")
    with heavy_imports():
        from helium_edge.checkpoint import ReadOptions
        from helium_edge.exporting import ExportRequest, export_all, plan

    chosen = override(recipe, target or (), fast=fast, cache_len=cache_len, prefill_len=prefill_len)
    reading = ReadOptions(merge_adapter=merge_adapter, generation_config=generation_config)
    if dry_run or output is None:
        plans = plan(checkpoint, chosen, revision=revision, run=not no_run, strict=strict, reading=reading)
        _show_plans(plans, checkpoint, compared=not (no_run or no_parity), as_json=as_json)
        given = {"--fast": fast, "--no-parity": no_parity, "--no-run": no_run}
        flags = [flag for flag, on in given.items() if on]
        _console.next_step("export", _with_owner(checkpoint), "--recipe", recipe, *flags, "-o", output or "DIR")
        return
    request = ExportRequest(
        source=checkpoint,
        recipe=chosen,
        out=output,
        revision=revision,
        force=force,
        parity=not no_parity,
        run=not no_run,
        store=store,
        calibration=calibration,
        threads=threads,
        strict=strict,
        reading=reading,
    )
    try:
        with _console.progress() as progress:
            results = export_all(request, progress)
    except ParityError as error:
        _show_failure(error)
        raise
    # Several targets of one recipe become several bundles, one below the other.
    folders = [output] if len(results) == 1 else [output / result.manifest.target.name for result in results]
    if as_json:
        documents = [_document(result) for result in results]
        _console.document(documents[0] if len(documents) == 1 else {"bundles": documents})
    else:
        for result, folder in zip(results, folders, strict=True):
            _show(result, folder, ran=not no_run)
    _next_step(results[0].manifest, folders[0])


def _show_plans(plans: list[ExportPlan], checkpoint: str, *, compared: bool, as_json: bool) -> None:
    if as_json:
        shown = [_views.plan_document(each, checkpoint) for each in plans]
        _console.document({"plan": shown[0]} if len(shown) == 1 else {"plans": shown})
        return
    for each in plans:
        _views.show_plan(each, checkpoint, compared=compared)
    for warning in dict.fromkeys(line for each in plans for line in each.warnings):
        _console.note(f"warning: {warning}")


def _with_owner(checkpoint: str) -> str:
    """The Hub id of a preset, which is a bare name; anything else as it is."""
    from helium_edge.presets import PRESETS

    return f"kyutai/{checkpoint}" if checkpoint in PRESETS and not Path(checkpoint).is_dir() else checkpoint


def _next_step(manifest: Manifest, folder: Path) -> None:
    command = _RUNS_TEXT.get(manifest.task)
    prompt = manifest.golden.prompt if manifest.golden else "Edge AI"
    _console.next_step(*((command, folder, prompt) if command else ("inspect", folder)))


def _show_failure(error: ParityError) -> None:
    """Show the report of a comparison that missed its gates."""
    from helium_edge.parity import ParityReport
    from helium_edge.parity.text_report import TextReport

    from ._text_view import show_text_parity

    if isinstance(error.report, ParityReport):
        _parity_view.show_parity(error.report.to_json(), stderr=True)
    elif isinstance(error.report, TextReport):
        show_text_parity(error.report, stderr=True)


def _document(result: ExportResult) -> dict[str, Any]:
    return {
        "bundle": str(result.bundle),
        "bundle_bytes": result.bundle_bytes,
        "seconds": round(result.seconds, 3),
        "peak_rss_bytes": result.peak_rss_bytes,
        "peak_anonymous_bytes": result.peak_anonymous_bytes,
        "peak_mapped_bytes": result.peak_mapped_bytes,
        "recipe": result.manifest.quantization.recipe_name,
        "target": result.manifest.target.name,
        "files": [entry.model_dump(mode="json") for entry in result.manifest.files],
        "warnings": list(result.warnings),
        "notes": list(result.notes),
        "parity": None if result.parity is None else result.parity.to_json(),
    }


def _show(result: ExportResult, folder: Path, *, ran: bool) -> None:
    from helium_edge.parity import ParityReport

    from ._text_view import show_text_parity

    if isinstance(result.parity, ParityReport):
        _parity_view.show_parity(result.parity.to_json())
        _console.line("")
    elif result.parity is not None:
        show_text_parity(result.parity)
        _console.line("")
    files = len(result.manifest.files) + 2  # the manifest and the card are not listed
    _console.fields(
        [
            ("bundle", f"{folder}, {size(result.bundle_bytes)} in {files} files"),
            (
                "export",
                f"{duration(result.seconds)}, at most {size(result.peak_rss_bytes)} of memory{_kinds(result)}",
            ),
        ]
    )
    if not ran:
        _console.line("parity: neither run nor compared with the original (--no-run)")
    elif result.parity is None:
        _console.line("parity: not compared with the original (--no-parity)")


def _kinds(result: ExportResult) -> str:
    """Memory that must be there, and file pages that the system takes back when it needs room."""
    if result.peak_anonymous_bytes is None or result.peak_mapped_bytes is None:
        return ""
    return f" ({size(result.peak_anonymous_bytes)} own, {size(result.peak_mapped_bytes)} of files)"
