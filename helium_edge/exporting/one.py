"""The main path of one bundle, readable in one screen: quantize, build, run, compare, publish (`export_one`)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from helium_edge.bundle import (
    GENAI_GRAPH,
    Bundle,
    BundleWriter,
    CacheScalesSection,
    Manifest,
    generation_defaults,
    open_bundle,
    read_checkpoint_card,
    write_card,
    write_companions,
    write_genai_config,
)
from helium_edge.checkpoint import Checkpoint
from helium_edge.errors import HeliumEdgeError, ParityError
from helium_edge.exporting.calibration import (
    cache_warnings,
    calibrate_cache,
    calibration_section,
    calibration_texts,
    open_store,
    text_warnings,
)
from helium_edge.exporting.describe import describe
from helium_edge.exporting.request import ExportRequest
from helium_edge.exporting.source import ExportSource
from helium_edge.exporting.try_out import try_out
from helium_edge.first_run import remember
from helium_edge.memory import PeakMemory, peak_rss_bytes
from helium_edge.model.kv_cache import KvScales
from helium_edge.model.weights import EMBEDDING
from helium_edge.parity import ParityReport
from helium_edge.parity.text_report import TextReport
from helium_edge.parity.verdict import in_one_line
from helium_edge.progress import SILENT, Progress
from helium_edge.quant import QuantizedStore, plan_weights
from helium_edge.quant.calibrated import CalibratedStore
from helium_edge.quant.methods import CALIBRATED
from helium_edge.recipe import Recipe
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.targets.base import Target

_SPACE, _SPACE_CALIBRATED = 1.15, 2.1
"""Bytes needed for each byte of the bundle: scales are kept beside it until it is whole, and the codes of
calibrated weights as well (docs/adr/0005)."""


@dataclass(frozen=True)
class Job:
    """One bundle to be made, of parts that have been checked to fit.

    Attributes:
        source: The original.
        recipe: Of one target, fitted to the model.
        target: What builds the graphs.
        out: The bundle's folder.
        request: What was asked for.
        warnings: What is known before any work is done, a line each.
    """

    source: ExportSource
    recipe: Recipe
    target: Target
    out: Path
    request: ExportRequest
    warnings: tuple[str, ...] = ()

    @property
    def checkpoint(self) -> Checkpoint:
        """The original's weights and config."""
        return self.source.checkpoint


@dataclass(frozen=True)
class ExportResult:
    """What an export made of one target.

    Attributes:
        bundle: The published folder.
        manifest: Its manifest.
        parity: The short comparison with the original; None when it was not asked for.
        seconds: Wall time.
        peak_rss_bytes: Largest resident memory of the process so far, mapped files included.
        peak_anonymous_bytes: Largest memory that it had allocated; None where the system does not tell.
        peak_mapped_bytes: Largest share of mapped files, likewise.
        bundle_bytes: Size of all files.
        warnings: What the user should know of the checkpoint and the result, a line each.
        notes: What was brought together without losing anything, a line each.
    """

    bundle: Path
    manifest: Manifest
    parity: ParityReport | TextReport | None
    seconds: float
    peak_rss_bytes: int
    peak_anonymous_bytes: int | None
    peak_mapped_bytes: int | None
    bundle_bytes: int
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def export_one(job: Job, store: Path, progress: Progress = SILENT) -> ExportResult:
    """Quantize, write the graphs, run them, compare with the original, publish.

    Args:
        job: What to export; it has been checked.
        store: Folder of the quantized store.
        progress: Receives stages.

    Raises:
        HeliumEdgeError: See `export_all`.
    """
    started = time.perf_counter()
    checkpoint, recipe, target, request = job.checkpoint, job.recipe, job.target, job.request
    files = target.plan(checkpoint.config, recipe, plan_weights(checkpoint.config, recipe.quantization))
    with PeakMemory() as peak, BundleWriter(job.out, force=request.force) as writer:
        calibrated = recipe.quantization.method == CALIBRATED
        writer.require_space(int(sum(size for _, size in files) * (_SPACE_CALIBRATED if calibrated else _SPACE)))
        tokenizer = Tokenizer(checkpoint.tokenizer_files()[0], job.source.companions.tokenizer.content)
        weights = open_store(checkpoint, recipe.quantization, store, tokenizer, request.calibration)
        late: tuple[str, ...] = ()
        if isinstance(weights, CalibratedStore):
            late = text_warnings(weights)
            _tell(late, progress)
            progress.stage("calibrate weights", weights.steps, "layers")
            weights.prepare(progress)
        scales, section = _calibrate_cache(job, weights, tokenizer, writer.folder, progress)
        clipped = cache_warnings(section)
        _tell(clipped, progress)
        sizes = _original_bytes(checkpoint, weights.names)
        progress.stage("quantize and write", sum(sizes.values()), "tensor bytes")
        graphs = target.build(
            weights, recipe, writer.folder, lambda name: progress.advance(sizes[name], name), scales
        )
        write_companions(checkpoint, writer.folder, job.source.companions.tokenizer)
        if GENAI_GRAPH in dict(files):
            generation = generation_defaults(checkpoint)
            stop = () if job.source.chat is None else job.source.chat.stop
            write_genai_config(checkpoint.config, recipe.shapes.cache_len, writer.folder, generation, stop)
        writer.start_hashing()
        progress.stage("describe")
        calibration = calibration_section(weights, request.calibration, target.real)
        manifest = describe(job.source, recipe, target, graphs, weights, section, calibration)
        report: ParityReport | TextReport | None = None
        if request.run:
            original = checkpoint if request.compares else None
            built = Bundle(writer.folder, manifest)
            manifest, report = try_out(built, original, weights, recipe, request.threads, progress)
        if report is not None:
            if not report.passed:
                raise _parity_error(recipe.name, report)
            manifest = manifest.model_copy(update={"parity": report.summary()})
        progress.stage("publish")
        write_card(manifest, read_checkpoint_card(checkpoint.folder), writer.folder)
        checkpoint.check_unchanged()
        bundle = writer.publish(manifest)
    published = open_bundle(bundle, unverified=True)
    if request.run:
        remember(published)
    final = published.manifest
    return ExportResult(
        bundle=bundle,
        manifest=final,
        parity=report,
        seconds=time.perf_counter() - started,
        peak_rss_bytes=peak_rss_bytes(),
        peak_anonymous_bytes=peak.anonymous_bytes,
        peak_mapped_bytes=peak.mapped_bytes,
        bundle_bytes=sum(path.stat().st_size for path in bundle.iterdir()),
        warnings=(*job.warnings, *late, *clipped),
        notes=job.source.companions.notes,
    )


def _tell(warnings: tuple[str, ...], progress: Progress) -> None:
    for line in warnings:
        progress.tell(f"warning: {line}")


def _original_bytes(checkpoint: Checkpoint, names: list[str]) -> dict[str, int]:
    """Bytes of each matrix in the checkpoint; a tied head is the embedding."""
    return {name: checkpoint.tensors[name if name in checkpoint.tensors else EMBEDDING].nbytes for name in names}


def _calibrate_cache(
    job: Job, weights: QuantizedStore, tokenizer: Tokenizer, folder: Path, progress: Progress
) -> tuple[KvScales | None, CacheScalesSection | None]:
    """Scales of an int8 KV cache, written into `folder`; nothing where the recipe asks for none."""
    checkpoint, recipe = job.checkpoint, job.recipe
    if recipe.kv_cache != "int8":
        return None, None
    texts = calibration_texts(tokenizer, checkpoint.config, recipe.shapes.cache_len, job.request.calibration)
    progress.stage("calibrate KV cache", checkpoint.config.num_hidden_layers, "layers")
    return calibrate_cache(weights, texts, folder, progress)


def _parity_error(name: str, report: ParityReport | TextReport) -> HeliumEdgeError:
    return ParityError(
        f"the exported graphs miss the gates of recipe {name}, nothing was published: "
        f"{in_one_line(report.failures)}",
        hint="--no-parity publishes all the same",
        report=report,
    )
