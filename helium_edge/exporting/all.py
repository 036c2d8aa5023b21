"""Every target of a recipe: the checkpoint is opened once, all is checked before anything is written."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from helium_edge.durable import require_utf8
from helium_edge.exporting.calibration import check_calibration
from helium_edge.exporting.fit import fit, split
from helium_edge.exporting.one import ExportResult, Job, export_one
from helium_edge.exporting.request import ExportRequest
from helium_edge.exporting.source import open_source
from helium_edge.parity import require_reference
from helium_edge.progress import SILENT, Progress
from helium_edge.quant import plan_weights
from helium_edge.runtime.versions import check_runtime


def export_all(request: ExportRequest, progress: Progress = SILENT) -> list[ExportResult]:
    """Export every target of a recipe, over one quantized store.

    A Hub id is resolved once: all bundles are of one commit, though a branch moves meanwhile.

    Args:
        request: What to export.
        progress: Receives stages.

    Returns:
        A result for each target, in the order of the recipe.

    Raises:
        UsageError: The recipe does not fit, or a bundle's folder is taken.
        InputError: The checkpoint is unusable.
        ParityError: The graphs miss the gates of the recipe; its `report` tells by how much.
        MissingDependencyError: An optional package is needed and missing.
        ResourceError: Out of disk space or memory.
    """
    if request.compares:
        require_reference()
    for folder in (request.out, request.store):
        if folder is not None:
            require_utf8(folder, shown=str(folder))
    progress.stage("read checkpoint")
    source = open_source(request.source, revision=request.revision, strict=request.strict, reading=request.reading)
    checkpoint = source.checkpoint
    recipes = split(request.recipe)
    jobs = []
    for name, single in recipes.items():
        recipe, target = fit(checkpoint.config, single)
        check_calibration(recipe, request.calibration)
        if request.run:
            target.check_can_run()
            minimum = target.min_runtime(checkpoint.config, recipe)
            check_runtime(target.runtime, minimum, int8_cache=recipe.kv_cache == "int8")
        out = request.out if len(recipes) == 1 else request.out / name
        files = dict(target.plan(checkpoint.config, recipe, plan_weights(checkpoint.config, recipe.quantization)))
        jobs.append(Job(source, recipe, target, out, request, source.warnings_for(files)))
    # At once: what follows may take hours.
    for note in source.companions.notes:
        progress.tell(f"note: {note}")
    for warning in dict.fromkeys(line for job in jobs for line in job.warnings):
        progress.tell(f"warning: {warning}")
    checkpoint.start_hashing()
    with _store_folder(request.out, request.store) as folder:
        return [export_one(job, folder, progress) for job in jobs]


@contextlib.contextmanager
def _store_folder(out: Path, given: Path | None) -> Iterator[Path]:
    """The folder of the store: kept when the user names it, or when the export is interrupted (docs/adr/0005)."""
    if given is not None:
        yield given
        return
    folder = out.absolute().parent / f".{out.name}.store"
    missing = [parent for parent in folder.parents if not os.path.lexists(parent)]
    try:
        yield folder
    except Exception:
        _remove_store(folder, missing)
        raise
    _remove_store(folder, missing)


def _remove_store(folder: Path, parents: list[Path]) -> None:
    """Remove a store, and those of the folders above it that were made for it and hold nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in parents:
        with contextlib.suppress(OSError):
            parent.rmdir()
