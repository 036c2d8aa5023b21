"""The main path, readable in one screen: load, quantize, build, run, compare, publish (`export`)."""

from __future__ import annotations

import contextlib
import math
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from helium_edge.bundle import (
    Bundle,
    BundleWriter,
    Manifest,
    open_bundle,
    open_runner,
    read_checkpoint_card,
    record_golden,
    write_card,
    write_companions,
)
from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.errors import CheckpointError, HeliumEdgeError, ParityError
from helium_edge.manifest import describe
from helium_edge.parity import (
    LANGUAGES,
    ParityReport,
    Window,
    evaluation_windows,
    reference_runner,
    require_reference,
    run_parity,
)
from helium_edge.quant import PlannedWeight, QuantizedStore, plan_weights
from helium_edge.recipe import Gates, Recipe
from helium_edge.runtime.runner import Runner
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.targets import Target, load_target

GOLDEN_PROMPT = "The device"
QUICK_WINDOW, FULL_WINDOW = 96, 256
"""Tokens of one conversation in the check that `export` makes, and in the one that `parity` makes."""

_BASE_BYTES = 400 << 20
"""Resident memory of the interpreter with torch, onnx and onnxruntime loaded, rounded up."""


class Progress(Protocol):
    """What a caller is told while it waits."""

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        """A stage begins; `total` is the number of steps, if known."""
        ...

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Steps of the stage are done."""
        ...


class _Silent:
    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        pass

    def advance(self, amount: int = 1, note: str = "") -> None:
        pass


@dataclass(frozen=True)
class ExportResult:
    """What `export` made.

    Attributes:
        bundle: The published folder.
        manifest: Its manifest.
        parity: The short comparison with the original; None when it was not asked for.
        seconds: Wall time.
        peak_rss_bytes: Largest resident memory of the process so far, mapped files included.
        bundle_bytes: Size of all files.
    """

    bundle: Path
    manifest: Manifest
    parity: ParityReport | None
    seconds: float
    peak_rss_bytes: int
    bundle_bytes: int


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
    store: Path | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> ExportResult:
    """Export a checkpoint: quantize, write the graphs, run them, compare with the original, publish.

    Args:
        source: Folder, Hub id or `helium-tiny`.
        recipe: What to export.
        out: The bundle's folder; it appears complete or not at all.
        revision: Of a Hub id.
        force: Replace an existing bundle.
        verify: Compare with the original before publishing; needs the extra `reference`.
        store: Folder that keeps the quantized weights for later exports; by default they lie beside `out` while
            the export runs, and an interrupted one takes them up again.
        threads: Threads within an operator while checking; 0 lets the runtime choose.
        progress: Told about stages.

    Raises:
        UsageError: The recipe does not fit, or `out` is taken.
        InputError: The checkpoint is unusable.
        ParityError: The graphs miss the gates of the recipe; its `report` tells by how much.
        MissingDependencyError: The extra `reference` is needed and missing.
        ResourceError: Out of disk space or memory.
    """
    started, tell = time.perf_counter(), progress or _Silent()
    if verify:
        require_reference()
    tell.stage("read checkpoint")
    checkpoint = open_checkpoint(source, revision=revision)
    recipe, target = fit(checkpoint, recipe)
    files = target.plan(checkpoint.config, recipe, plan_weights(checkpoint.config, recipe.quantization))
    with BundleWriter(out, force=force) as writer, _store_folder(out, store) as store_folder:
        writer.require_space(sum(size for _, size in files) * (2 if store is None else 1))
        weights = QuantizedStore(checkpoint, recipe.quantization, store_folder)
        tell.stage("quantize and write", len(weights.names), "weights")
        graphs = target.build(weights, recipe, writer.folder, lambda name: tell.advance(note=name))
        write_companions(checkpoint, writer.folder)
        tell.stage("describe")
        manifest = describe(checkpoint, recipe, target, graphs, weights)
        tell.stage("run")
        runner = open_runner(Bundle(writer.folder, manifest), threads=threads)
        tokenizer = Tokenizer(writer.folder / manifest.tokenizer.file)
        prompt = tokenizer.encode(GOLDEN_PROMPT)
        golden = record_golden(runner, GOLDEN_PROMPT, prompt, eos_ids=manifest.tokens.eos)
        manifest = manifest.model_copy(update={"golden": golden})
        report = None
        if verify:
            windows = _windows(tokenizer, QUICK_WINDOW, runner.cache_len, per_language=1)
            report = _compare(runner, checkpoint, windows, recipe.gates, recipe.shapes.prefill_len, tell)
            if not report.passed:
                raise _parity_error(recipe.name, report)
            manifest = manifest.model_copy(update={"parity": report.summary()})
        tell.stage("publish")
        write_card(manifest, read_checkpoint_card(checkpoint.folder), writer.folder)
        bundle = writer.publish(manifest)
    size = sum(path.stat().st_size for path in bundle.iterdir())
    final = open_bundle(bundle, unverified=True).manifest
    return ExportResult(bundle, final, report, time.perf_counter() - started, peak_rss_bytes(), size)


def plan(source: str, recipe: Recipe, *, revision: str | None = None) -> ExportPlan:
    """Say what `export` would do, writing nothing; raises as it does."""
    checkpoint = open_checkpoint(source, revision=revision)
    recipe, target = fit(checkpoint, recipe)
    config = checkpoint.config
    weights = plan_weights(config, recipe.quantization)
    phone = target.memory(config, recipe, weights)
    largest = max(math.prod(weight.shape) for weight in weights)
    # Of one weight at a time: the original's pages, codes as int8, and their packed form.
    host = _BASE_BYTES + 4 * largest
    return ExportPlan(
        weights=weights,
        files=target.plan(config, recipe, weights),
        host_bytes=host,
        verify_bytes=_BASE_BYTES + 4 * config.num_parameters + sum(phone.values()),
        phone_bytes=phone,
        cache_len=recipe.shapes.cache_len,
    )


def check(
    bundle_path: Path,
    *,
    checkpoint: str | None = None,
    tokens: int = 0,
    threads: int = 0,
    static: bool = False,
    unverified: bool = False,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare a bundle with the checkpoint that it was exported from, on the built-in text.

    Args:
        bundle_path: The bundle.
        checkpoint: Where its checkpoint is; by default where the manifest says it came from.
        tokens: About how many tokens to run over all languages; 0 runs all of the text.
        threads: Threads within an operator; 0 lets the runtime choose.
        static: Run the static prefill and decode graphs instead of the one that serves both.
        unverified: Run a bundle whose checksums do not match.
        progress: Told about stages.

    Returns:
        The report, judged by the gates of the bundle's recipe; missing a gate is no exception here.

    Raises:
        InputError: Bundle or checkpoint are unusable, or do not belong together.
        MissingDependencyError: The extra `reference` is missing.
    """
    tell = progress or _Silent()
    require_reference()
    tell.stage("read bundle")
    bundle = open_bundle(bundle_path, unverified=unverified)
    original = _original(bundle.manifest, checkpoint)
    runner = open_runner(bundle, threads=threads, static=static)
    tokenizer = Tokenizer(bundle.folder / bundle.manifest.tokenizer.file)
    length = min(FULL_WINDOW, runner.cache_len)
    per_language = math.ceil(tokens / (length * len(LANGUAGES))) if tokens else None
    windows = _windows(tokenizer, length, runner.cache_len, per_language=per_language)
    gates = Gates.model_validate(bundle.manifest.quantization.recipe["gates"])
    return _compare(runner, original, windows, gates, bundle.manifest.prefill_len, tell)


def fit(checkpoint: Checkpoint, recipe: Recipe) -> tuple[Recipe, Target]:
    """Cap a recipe's cache at the model's context, and check that its target can carry the model.

    Raises:
        RecipeError: It cannot.
    """
    (name,) = recipe.targets.names()
    target = load_target(name)
    cache_len = min(recipe.shapes.cache_len, checkpoint.config.max_position_embeddings)
    shapes = recipe.shapes.model_copy(update={"cache_len": cache_len})
    fitted = recipe.model_copy(update={"shapes": shapes})
    target.check(checkpoint.config, fitted)
    return fitted, target


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextlib.contextmanager
def _store_folder(out: Path, given: Path | None) -> Iterator[Path]:
    """The folder of the store: kept when the user names it, or when the export is interrupted (docs/adr/0005)."""
    if given is not None:
        yield given
        return
    folder = out.absolute().parent / f".{out.name}.store"
    try:
        yield folder
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _windows(tokenizer: Tokenizer, length: int, cache_len: int, *, per_language: int | None) -> list[Window]:
    return evaluation_windows(tokenizer, window_len=min(length, cache_len), max_windows_per_language=per_language)


def _compare(
    runner: Runner, original: Checkpoint, windows: list[Window], gates: Gates, chunk: int, tell: Progress
) -> ParityReport:
    tell.stage("load original")
    reference = reference_runner(original, runner.cache_len)
    done = 0

    def advance(tokens: int, _: int) -> None:
        nonlocal done
        tell.advance(tokens - done)
        done = tokens

    tell.stage("compare with original", sum(len(window.tokens) - 1 for window in windows), "tokens")
    return run_parity(runner, reference, windows, gates=gates, prefill_tokens=chunk, on_progress=advance)


def _original(manifest: Manifest, given: str | None) -> Checkpoint:
    """The checkpoint of a bundle, checked by its hashes."""
    source = manifest.source
    try:
        checkpoint = open_checkpoint(given or source.checkpoint, revision=None if given else source.revision)
    except CheckpointError as error:
        if given is not None:
            raise
        raise CheckpointError(
            f"the original of this bundle, {source.checkpoint}, is not at hand: {error.message}",
            hint="name its folder with --checkpoint",
        ) from error
    hashes = checkpoint.hashes()
    wrong = [name for name, value in source.files.items() if hashes.get(name) != value]
    if wrong:
        raise CheckpointError(
            f"{checkpoint.source}: {wrong[0]} is not the file that the bundle was exported from",
            hint="name the right checkpoint with --checkpoint",
        )
    return checkpoint


def _parity_error(name: str, report: ParityReport) -> HeliumEdgeError:
    return ParityError(
        f"the exported graphs miss the gates of recipe {name}, nothing was published: "
        f"{'; '.join(report.failures)}",
        hint="--no-verify publishes all the same",
        report=report,
    )
