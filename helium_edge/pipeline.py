"""The main path, readable in one screen: load, quantize, build, run, compare, publish (`export`)."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helium_edge.bundle import (
    Bundle,
    BundleWriter,
    CacheScalesSection,
    Manifest,
    check_companions,
    open_bundle,
    open_head,
    open_runner,
    read_checkpoint_card,
    record_golden,
    write_card,
    write_companions,
)
from helium_edge.calibration import calibrate_cache, calibration_texts, calibration_warnings, check_calibration
from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.compare import check, check_head, quick_check
from helium_edge.config import ModelConfig
from helium_edge.errors import ConfigError, HeliumEdgeError, ParityError
from helium_edge.manifest import describe
from helium_edge.memory import PeakMemory, peak_rss_bytes
from helium_edge.model.kv_cache import KvScales
from helium_edge.model.weights import EMBEDDING
from helium_edge.parity import ParityReport, require_reference
from helium_edge.parity.heads import HeadReport
from helium_edge.presets import preset
from helium_edge.progress import SILENT, Progress
from helium_edge.quant import PlannedWeight, QuantizedStore, plan_weights
from helium_edge.recipe import Recipe, Targets
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.runtime.versions import check_runtime
from helium_edge.targets import Target, load_target
from helium_edge.texts import TextSource

__all__ = [
    "ExportPlan",
    "ExportResult",
    "check",
    "export",
    "export_all",
    "fit",
    "plan",
    "split",
]

GOLDEN_PROMPT = "The device"
QUICK_WINDOW = 96
"""Tokens of one conversation in the check that `export` makes."""

QUICK_TOKENS = 2000
"""About as many tokens of text does that check run through a model that is no language model."""

_SPACE = 1.15
"""Bytes needed for each byte of the bundle: scales are kept beside it until it is whole (docs/adr/0005)."""

_BASE_BYTES = 400 << 20
"""Resident memory of the interpreter with torch, onnx and onnxruntime loaded, rounded up."""


@dataclass(frozen=True)
class ExportResult:
    """What `export` made.

    Attributes:
        bundle: The published folder.
        manifest: Its manifest.
        parity: The short comparison with the original; None when it was not asked for.
        seconds: Wall time.
        peak_rss_bytes: Largest resident memory of the process so far, mapped files included.
        peak_anonymous_bytes: Largest memory that it had allocated; None where the system does not tell.
        peak_mapped_bytes: Largest share of mapped files, likewise.
        bundle_bytes: Size of all files.
        warnings: What the user should know of the result, a line each.
    """

    bundle: Path
    manifest: Manifest
    parity: ParityReport | HeadReport | None
    seconds: float
    peak_rss_bytes: int
    peak_anonymous_bytes: int | None
    peak_mapped_bytes: int | None
    bundle_bytes: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportPlan:
    """What `export` would make, known from the config and the recipe alone.

    Attributes:
        weights: Every matrix with its scheme.
        files: Names and estimated bytes.
        host_bytes: Estimated peak memory of the export.
        verify_bytes: The same with the comparison, which holds the original in float32.
        phone_bytes: Estimated memory on the phone, by part.
        cache_len: Slots of the cache.
    """

    weights: list[PlannedWeight]
    files: list[tuple[str, int]]
    host_bytes: int
    verify_bytes: int
    phone_bytes: dict[str, int]
    cache_len: int


def export(  # noqa: PLR0913 - an argument per option of the command
    source: str,
    recipe: Recipe,
    out: Path,
    *,
    revision: str | None = None,
    force: bool = False,
    verify: bool = True,
    run: bool = True,
    store: Path | None = None,
    calibration: Path | None = None,
    threads: int = 0,
    progress: Progress = SILENT,
) -> ExportResult:
    """Export a checkpoint: quantize, write the graphs, run them, compare with the original, publish.

    Args:
        source: Folder, Hub id or `helium-tiny`.
        recipe: What to export.
        out: The bundle's folder; it appears complete or not at all.
        revision: Of a Hub id.
        force: Replace an existing bundle.
        verify: Compare with the original before publishing; needs the extra `reference`.
        run: Run what was built, which `verify` needs, and keep a golden trace; this holds all weights, not one.
        store: Folder that keeps the scales that were found for later exports; by default they lie beside `out`
            while the export runs, and an interrupted one takes them up again.
        calibration: Text for the scales of an int8 KV cache; None is the built-in one.
        threads: Threads within an operator while checking; 0 lets the runtime choose.
        progress: Receives stages.

    Raises:
        UsageError: The recipe does not fit, or `out` is taken.
        InputError: The checkpoint is unusable.
        ParityError: The graphs miss the gates of the recipe; its `report` tells by how much.
        MissingDependencyError: The extra `reference` is needed and missing.
        ResourceError: Out of disk space or memory.
    """
    started, tell = time.perf_counter(), progress
    verify = verify and run
    if verify:
        require_reference()
    tell.stage("read checkpoint")
    checkpoint = open_checkpoint(source, revision=revision)
    recipe, target = fit(checkpoint.config, recipe)
    check_calibration(recipe, calibration)
    check_runtime(target.runtime, target.min_runtime(checkpoint.config, recipe))
    check_companions(checkpoint)
    checkpoint.start_hashing()
    files = target.plan(checkpoint.config, recipe, plan_weights(checkpoint.config, recipe.quantization))
    with (
        PeakMemory() as peak,
        BundleWriter(out, force=force) as writer,
        _store_folder(out, store) as store_folder,
    ):
        writer.require_space(int(sum(size for _, size in files) * _SPACE))
        weights = QuantizedStore(checkpoint, recipe.quantization, store_folder)
        scales, section = _calibrate(checkpoint, weights, recipe, calibration, writer.folder, tell)
        sizes = _original_bytes(checkpoint, weights.names)
        tell.stage("quantize and write", sum(sizes.values()), "tensor bytes")
        graphs = target.build(weights, recipe, writer.folder, lambda name: tell.advance(sizes[name], name), scales)
        write_companions(checkpoint, writer.folder)
        writer.start_hashing()
        tell.stage("describe")
        manifest = describe(checkpoint, recipe, target, graphs, weights, section)
        report: ParityReport | HeadReport | None = None
        if run:
            run_it = _run_decoder if manifest.head is None else _run_head
            built = Bundle(writer.folder, manifest)
            manifest, report = run_it(built, checkpoint if verify else None, weights, recipe, threads, tell)
        if report is not None:
            if not report.passed:
                raise _parity_error(recipe.name, report)
            manifest = manifest.model_copy(update={"parity": report.summary()})
        tell.stage("publish")
        write_card(manifest, read_checkpoint_card(checkpoint.folder), writer.folder)
        bundle = writer.publish(manifest)
    size = sum(path.stat().st_size for path in bundle.iterdir())
    final = open_bundle(bundle, unverified=True).manifest
    return ExportResult(
        bundle, final, report, time.perf_counter() - started,
        peak_rss_bytes(), peak.anonymous_bytes, peak.mapped_bytes, size, calibration_warnings(final),
    )  # fmt: skip


def _original_bytes(checkpoint: Checkpoint, names: list[str]) -> dict[str, int]:
    """Bytes of each matrix in the checkpoint; a tied head is the embedding."""
    return {name: checkpoint.tensors[name if name in checkpoint.tensors else EMBEDDING].nbytes for name in names}


def _calibrate(
    checkpoint: Checkpoint,
    weights: QuantizedStore,
    recipe: Recipe,
    text: Path | None,
    folder: Path,
    tell: Progress,
) -> tuple[KvScales | None, CacheScalesSection | None]:
    """Scales of an int8 KV cache, written into `folder`; nothing where the recipe asks for none."""
    if recipe.kv_cache != "int8":
        return None, None
    tokenizer = Tokenizer(checkpoint.tokenizer_files()[0])
    texts = calibration_texts(tokenizer, checkpoint.config, recipe.shapes.cache_len, text)
    tell.stage("calibrate KV cache", checkpoint.config.num_hidden_layers, "layers")
    return calibrate_cache(weights, texts, folder, tell)


def _run_decoder(
    bundle: Bundle,
    original: Checkpoint | None,
    weights: QuantizedStore,
    recipe: Recipe,
    threads: int,
    tell: Progress,
) -> tuple[Manifest, ParityReport | None]:
    """Run a language model that has been built: its golden trace, and the short comparison if asked for."""
    manifest = bundle.manifest
    tell.stage("run")
    tokenizer = Tokenizer(bundle.folder / manifest.tokenizer.file)
    prompt = tokenizer.encode(GOLDEN_PROMPT)
    runner = open_runner(bundle, threads=threads)
    golden = record_golden(runner, GOLDEN_PROMPT, prompt, eos_ids=manifest.tokens.eos)
    manifest = manifest.model_copy(update={"golden": golden})
    if original is None:
        return manifest, None
    report = quick_check(bundle, runner, original, weights, recipe, tokenizer, window_len=QUICK_WINDOW, tell=tell)
    return manifest, report


def _run_head(
    bundle: Bundle,
    original: Checkpoint | None,
    weights: QuantizedStore,
    recipe: Recipe,
    threads: int,
    tell: Progress,
) -> tuple[Manifest, HeadReport | None]:
    """Run a model that is no language model: one text, or texts against the original if asked for."""
    if original is not None:
        report = check_head(
            bundle, original, weights, recipe, tell, TextSource(tokens=QUICK_TOKENS), threads=threads
        )
        return bundle.manifest, report
    tell.stage("run")
    tokenizer = Tokenizer(bundle.folder / bundle.manifest.tokenizer.file)
    open_head(bundle, threads=threads).run(tokenizer.encode(GOLDEN_PROMPT)[: bundle.manifest.prefill_len])
    return bundle.manifest, None


def export_all(  # noqa: PLR0913 - an argument per option of the command
    source: str,
    recipe: Recipe,
    out: Path,
    *,
    revision: str | None = None,
    force: bool = False,
    verify: bool = True,
    run: bool = True,
    store: Path | None = None,
    calibration: Path | None = None,
    threads: int = 0,
    progress: Progress = SILENT,
) -> list[ExportResult]:
    """Export every target of a recipe, over one quantized store; arguments and errors are those of `export`.

    One target becomes the bundle `out`. Several become the bundles `out/<target>`, each complete or not at all;
    all are checked before the first is built.
    """
    recipes = split(recipe)
    checkpoint = open_checkpoint(source, revision=revision)
    check_companions(checkpoint)
    for single in recipes.values():
        check_calibration(fit(checkpoint.config, single)[0], calibration)
    results = []
    with _store_folder(out, store) as folder:
        for name, single in recipes.items():
            bundle = out if len(recipes) == 1 else out / name
            results.append(
                export(
                    source, single, bundle, revision=revision, force=force, verify=verify, run=run, store=folder,
                    calibration=calibration, threads=threads, progress=progress,
                )
            )  # fmt: skip
    return results


def split(recipe: Recipe) -> dict[str, Recipe]:
    """A recipe for each target of a recipe, by the target's name."""
    targets = recipe.targets
    return {
        name: recipe.model_copy(update={"targets": Targets(**{name: getattr(targets, name)})})
        for name in targets.names()
    }


def plan(source: str, recipe: Recipe, *, revision: str | None = None, run: bool = True) -> ExportPlan:
    """Say what `export` would do, writing nothing; raises as it does.

    The source may also be the name of a preset, a shape without weights; a folder of that name is preferred.
    """
    config = None if revision is not None or Path(source).is_dir() else preset(source)
    if config is None:
        checkpoint = open_checkpoint(source, revision=revision)
        check_companions(checkpoint)
        config = checkpoint.config
    recipe, target = fit(config, recipe)
    weights = plan_weights(config, recipe.quantization)
    phone = target.memory(config, recipe, weights)
    largest = max(math.prod(weight.shape) for weight in weights)
    # One weight at a time: the original's pages, its codes, their packed form. Then all as the runtime holds them.
    building = 4 * largest + target.build_memory(config, recipe, weights)
    running = phone["weights"] + phone["activations"] if run else 0
    return ExportPlan(
        weights=weights,
        files=target.plan(config, recipe, weights),
        host_bytes=_BASE_BYTES + max(building, running),
        verify_bytes=_BASE_BYTES + 4 * config.num_parameters + sum(phone.values()),
        phone_bytes=phone,
        cache_len=recipe.shapes.cache_len,
    )


def fit(config: ModelConfig, recipe: Recipe) -> tuple[Recipe, Target]:
    """Cap a recipe's cache at the model's context, and check that its target can carry the model.

    A model that is no language model has no cache: what counts is the length of a text, `prefill_len`.

    Raises:
        RecipeError: It cannot.
        ConfigError: The model cannot be exported with static shapes.
    """
    (name,) = recipe.targets.names()
    target = load_target(name)
    lengths = {"cache_len": min(recipe.shapes.cache_len, config.max_position_embeddings)}
    if config.head != "language_model":
        tokens = min(recipe.shapes.prefill_len, config.max_position_embeddings)
        lengths = {"prefill_len": tokens, "cache_len": tokens}
    if config.head == "sequence_classification" and config.pad_token_id is None:
        raise ConfigError(
            f"config.json: {config.architecture} without pad_token_id cannot be exported: texts shorter than the "
            "graph are padded",
            hint="set pad_token_id to the id of the tokenizer's padding token",
        )
    shapes = recipe.shapes.model_copy(update=lengths)
    fitted = recipe.model_copy(update={"shapes": shapes})
    if config.head != "language_model":
        fitted = fitted.model_copy(update={"kv_cache": "float32"})  # there is no cache
    target.check(config, fitted)
    return fitted, target


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


def _parity_error(name: str, report: ParityReport | HeadReport) -> HeliumEdgeError:
    return ParityError(
        f"the exported graphs miss the gates of recipe {name}, nothing was published: "
        f"{'; '.join(report.failures)}",
        hint="--no-verify publishes all the same",
        report=report,
    )
