"""`helium-edge inspect`: what is in a bundle, or in a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from . import _console
from ._options import JsonOption, RevisionOption

EPILOG = """\b
Examples:
  helium-edge inspect tiny
  helium-edge inspect helium-tiny --json
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
            help="Folder of a bundle or of a checkpoint, a Hub id, or helium-tiny.",
            show_default=False,
        ),
    ],
    revision: RevisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a bundle (model, graphs, files, schemes, memory, parity) or a checkpoint (tensors, sizes).

    Checksums are not read; `verify` does that.
    """
    if (Path(path) / MANIFEST).is_file():
        from helium_edge.bundle import open_bundle

        from ._bundle_view import program_methods, show_bundle, show_programs

        # What is shown comes from the manifest, and from the program of an ExecuTorch bundle.
        bundle = open_bundle(Path(path), unverified=True)
        programs = program_methods(bundle)
        if as_json:
            document: dict[str, Any] = {
                "bundle": path,
                "manifest": bundle.manifest.model_dump(mode="json", by_alias=True),
            }
            if programs is not None:
                document["methods"] = [dataclasses.asdict(method) for method in programs]
            _console.document(document)
        else:
            show_bundle(bundle.manifest)
            if programs is not None:
                show_programs(programs)
        _console.next_step("verify", path)
        return
    from helium_edge.checkpoint import open_checkpoint

    from ._checkpoint_view import checkpoint_document, show_checkpoint

    checkpoint = open_checkpoint(path, revision=revision)
    if as_json:
        _console.document(checkpoint_document(checkpoint))
    else:
        show_checkpoint(checkpoint)
    _console.next_step("export", path, "--recipe", "onnx-int4", "--dry-run")
