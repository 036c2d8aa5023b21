"""A bundle against the checkpoint that it came from: what `helium-edge parity` does, and an export in short."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Literal

from helium_edge.bundle import Bundle, open_bundle
from helium_edge.checkpoint import Checkpoint
from helium_edge.errors import BundleError, UsageError
from helium_edge.first_run import ensure_runs
from helium_edge.generation import LanguageModel, language_model, text_model
from helium_edge.parity import facts
from helium_edge.parity.bundle_store import BundleStore, compare_digests
from helium_edge.parity.greedy import first_words
from helium_edge.parity.oracle_optimum import require_optimum
from helium_edge.parity.original import original_of
from helium_edge.parity.reference import require_reference
from helium_edge.parity.report import ParityReport
from helium_edge.parity.session import Session
from helium_edge.parity.text_graph import SHORT_TEXTS, compare_graph
from helium_edge.parity.text_report import ReferenceTextModel, TextReport, compare_texts, text_lengths
from helium_edge.progress import SILENT, Progress
from helium_edge.quant import QuantizedStore, WeightStore
from helium_edge.quant.methods import CALIBRATED
from helium_edge.recipe import Recipe
from helium_edge.targets import load_target
from helium_edge.texts import BUILT_IN_TEXT, MIN_WINDOW_LEN, TextSource, evaluation_windows
from helium_edge.user_cache import cache_folder

FULL_WINDOW = 256
"""Tokens of one conversation."""
BUILT_IN = "built-in, six languages"

OracleName = Literal["optimum"]


def check(  # noqa: PLR0913 - an argument per option of the command
    bundle_path: Path,
    *,
    checkpoint: str | None = None,
    text: TextSource = BUILT_IN_TEXT,
    threads: int = 0,
    static: bool = False,
    unverified: bool = False,
    store: Path | None = None,
    layers: bool = False,
    oracle: OracleName | None = None,
    decoders_only: bool = False,
    elsewhere: bool = True,
    progress: Progress = SILENT,
) -> ParityReport | TextReport:
    """Compare a bundle with the checkpoint that it was exported from: all levels, and the cache contract.

    Args:
        bundle_path: The bundle.
        checkpoint: Where its checkpoint is; by default where the manifest says it came from.
        text: What to compare on.
        threads: Threads within an operator; 0 lets the runtime choose.
        static: Run the static prefill and decode graphs instead of the one that serves both.
        unverified: Run a bundle whose checksums do not match.
        store: Folder of quantized weights, as of `export --store`; by default they are quantized anew. A
            calibrated bundle needs none.
        layers: Localise also when L1 holds: the error of every operation of every layer.
        oracle: A second oracle beside transformers; like `layers`, of language models alone.
        decoders_only: Refuse other models before anything is run.
        elsewhere: Judge level L3 by the arithmetic of other processors, too: one pass of our torch decoder more.
        progress: Receives stages.

    Returns:
        The report, judged by the gates of the bundle's recipe; missing a gate is no exception here. A classifier
        or encoder has a report of its own.

    Raises:
        InputError: Bundle or checkpoint are unusable, or do not belong together.
        MissingDependencyError: The extra `reference` is missing.
        UsageError: What is asked for is of language models alone, and this is none.
    """
    started = time.perf_counter()
    require_reference()
    if oracle is not None:
        require_optimum()
    progress.stage("read bundle")
    bundle = open_bundle(bundle_path, unverified=unverified)
    ensure_runs(bundle, unverified=unverified)
    has_cache = bundle.manifest.task.has_cache
    if not has_cache and (decoders_only or layers or oracle is not None):
        raise UsageError(
            f"{bundle_path}: {bundle.manifest.model.architecture} is no language model; pages, test results, "
            "tables, baselines, --layers and --oracle are of language models",
            hint="--json has all figures",
        )
    original = original_of(bundle.manifest, checkpoint)
    recipe = bundle.manifest.quantization.to_recipe()
    with tempfile.TemporaryDirectory(prefix="helium-edge-") as scratch:
        weights = _weights(bundle, original, recipe, store or Path(scratch))
        if not has_cache:
            _check_digests(bundle, weights)
            return check_texts(bundle, original, weights, recipe, progress, text, threads=threads)
        model = language_model(bundle, threads=threads, static=static)
        windows = text.windows(model.tokenizer, min(FULL_WINDOW, model.cache_len))
        session = Session(bundle, model.runner, original, weights, recipe, progress, static, elsewhere)
        exact = session.store_level()
        compared = session.compare(windows, cache=cache_folder(), prompts=first_words(windows, model.tokenizer))
        return ParityReport(
            levels=(exact, *compared.levels),
            elsewhere=compared.elsewhere,
            checks=compared.cache_checks(windows[0].tokens),
            greedy=compared.greedy(model.tokenizer),
            oracle=compared.second_oracle(cache_folder()) if oracle is not None else None,
            layers=compared.localise(windows[0].tokens, asked=layers),
            subject=facts.subject(bundle),
            environment=facts.environment(bundle, threads),
            text=facts.text(str(text.file or BUILT_IN), windows),
            cost=compared.cost(time.perf_counter() - started),
        )


def _weights(bundle: Bundle, original: Checkpoint, recipe: Recipe, folder: Path) -> WeightStore:
    """What the bundle should hold: quantized anew, or of a calibrated bundle what it does hold."""
    if bundle.manifest.quantization.calibration is not None:
        return BundleStore(bundle, original.config, recipe)
    if recipe.quantization.method == CALIBRATED:
        raise BundleError(f"{bundle.folder}: the manifest says nothing of its calibration", hint="export again")
    return QuantizedStore(original, recipe.quantization, folder)


def _check_digests(bundle: Bundle, weights: WeightStore) -> None:
    """What level L0 says of a language model; the report of others has no place for it.

    Raises:
        BundleError: A calibrated weight of the bundle is not the one that was exported.
    """
    calibration = bundle.manifest.quantization.calibration
    if calibration is None or not isinstance(weights, BundleStore):
        return
    found = compare_digests(weights.artifact, calibration.digests)
    if found:
        raise BundleError(
            f"{bundle.folder}: {len(found)} weights are not those that were exported: {found[0]}",
            hint="export again; if it stays, report the tensor",
        )


def check_texts(
    bundle: Bundle,
    original: Checkpoint,
    weights: WeightStore,
    recipe: Recipe,
    progress: Progress,
    text: TextSource,
    *,
    threads: int = 0,
) -> TextReport:
    """Compare the bundle of a classifier or encoder with our torch classifier, and with its original.

    Args:
        bundle: The bundle; it may be one that is still being written.
        original: Its checkpoint.
        weights: The weights that were exported.
        recipe: What it was exported by.
        progress: Receives stages.
        text: What to compare on.
        threads: Threads within an operator; 0 lets the runtime choose.
    """
    manifest = bundle.manifest
    progress.stage("run")
    model = text_model(bundle, threads=threads)
    runner = model.runner
    length = min(FULL_WINDOW, max(MIN_WINDOW_LEN, manifest.prefill_len))
    texts = text_lengths(text.windows(model.tokenizer, length), manifest.prefill_len)
    progress.stage("compare with torch", len(texts) + SHORT_TEXTS, "texts")
    # Before the original is loaded: two models are never in memory.
    graph = compare_graph(
        runner, weights, load_target(manifest.target.name).arithmetic(recipe, weights.plan), texts, progress
    )
    progress.stage("load original")
    reference = ReferenceTextModel(original, manifest.prefill_len)
    progress.stage("compare with original", len(texts), "texts")
    report = compare_texts(runner, reference, texts, recipe.gates, progress)
    return dataclasses.replace(report, graph=graph)


def quick_check(
    model: LanguageModel,
    original: Checkpoint,
    weights: WeightStore,
    recipe: Recipe,
    *,
    window_len: int,
    progress: Progress,
) -> ParityReport:
    """Levels L1 and L3 on a window of each language: the check that an export makes before it publishes.

    Args:
        model: What was built; its bundle may still be being written.
        original: Its checkpoint.
        weights: The weights that were exported.
        recipe: What it was exported by.
        window_len: Tokens of a window.
        progress: Receives stages.
    """
    started = time.perf_counter()
    windows = evaluation_windows(
        model.tokenizer, window_len=min(window_len, model.cache_len), max_windows_per_language=1
    )
    session = Session(model.bundle, model.runner, original, weights, recipe, progress)
    compared = session.compare(windows, cache=None)
    return ParityReport(
        compared.levels,
        compared.elsewhere,
        text=facts.text(BUILT_IN, windows),
        cost=compared.cost(time.perf_counter() - started),
    )
