"""`helium-edge inspect`: what is in a bundle, or in a checkpoint."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helium_edge.errors import CheckpointError

from . import _console
from ._options import JsonOption, RevisionOption, revision_words

if TYPE_CHECKING:
    from helium_edge.bundle import Bundle

EPILOG = """\b
Examples:
  helium-edge inspect tiny
  helium-edge inspect helium-tiny --json
  helium-edge inspect helium-1-2b
"""

MANIFEST = "helium-edge.json"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect", short_help="Show what is in a bundle or a checkpoint.", epilog=EPILOG)(inspect)


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE|CHECKPOINT",
            help="Folder of a bundle or of a checkpoint, a Hub id, helium-tiny, or a preset such as helium-1-2b.",
            show_default=False,
        ),
    ],
    revision: RevisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a bundle (model, graphs, files, schemes, memory, parity) or a checkpoint (tensors, sizes).

    Presets are the shapes of the released models, helium-1-preview-2b and helium-1-2b, without weights. Checksums
    are not read; `verify` does that.
    """
    from helium_edge.presets import preset

    if (Path(os.path.expanduser(path)) / MANIFEST).is_file():
        from helium_edge.bundle import open_bundle, resolve_bundle

        local = open_bundle(resolve_bundle(path, revision=revision), unverified=True)
        _show_bundle(path, local, None, as_json=as_json)
        return

    from ._checkpoint_view import checkpoint_document, preset_document, show_checkpoint, show_preset

    shape = None if revision is not None or Path(path).is_dir() else preset(path)
    if shape is not None:
        if as_json:
            _console.document(preset_document(path, shape))
        else:
            show_preset(path, shape)
        _console.next_step("export", path, "--recipe", "onnx-int4", "--dry-run")
        return
    from helium_edge.bundle import peek_bundle, resolve_bundle
    from helium_edge.checkpoint import open_checkpoint

    bundle = peek_bundle(path, revision=revision)
    if bundle is not None:
        if bundle.manifest.runtime == "executorch":  # what is shown is in the program as well
            bundle = dataclasses.replace(bundle, folder=resolve_bundle(path, revision=revision))
        _show_bundle(path, bundle, revision, as_json=as_json)
        return
    try:
        checkpoint = open_checkpoint(path, revision=revision)
    except CheckpointError as error:
        if Path(path).exists() or not error.message.endswith("no such folder"):
            raise
        more = "a bundle is written by `helium-edge export CHECKPOINT --recipe NAME -o DIR`"
        raise CheckpointError(error.message, hint=f"{error.hint}; {more}") from error
    if as_json:
        _console.document(checkpoint_document(checkpoint))
    else:
        show_checkpoint(checkpoint)
    _console.next_step("export", path, "--recipe", "onnx-int4", "--dry-run")


def _show_bundle(path: str, bundle: Bundle, revision: str | None, *, as_json: bool) -> None:
    """Show what is in the manifest, and in the program of an ExecuTorch bundle."""
    from helium_edge.bench.phones import bundle_predictions

    from ._bundle_view import program_methods, show_bundle, show_programs
    from ._phones_view import show_predictions

    programs, predicted = program_methods(bundle), bundle_predictions(bundle)
    if as_json:
        document: dict[str, Any] = {
            "bundle": path,
            "manifest": bundle.manifest.model_dump(mode="json", by_alias=True),
        }
        if programs is not None:
            document["methods"] = [dataclasses.asdict(method) for method in programs]
        document["predictions"] = [each.to_json() for each in predicted]
        _console.document(document)
    else:
        show_bundle(bundle.manifest)
        if programs is not None:
            show_programs(programs)
        show_predictions(predicted)
    _console.next_step("verify", path, *revision_words(revision))
