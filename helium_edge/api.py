"""The functions that `import helium_edge` offers; docs/api.md shows them."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from helium_edge.bundle import check_pin, open_bundle, resolve_bundle
from helium_edge.bundle.source import StrPath
from helium_edge.checkpoint import ReadOptions
from helium_edge.errors import UsageError
from helium_edge.exporting import ExportRequest, ExportResult, export_all
from helium_edge.first_run import ensure_runs
from helium_edge.generation import AnyModel, open_model
from helium_edge.parity.check import check as check_bundle
from helium_edge.parity.report import ParityReport
from helium_edge.parity.text_report import TextReport
from helium_edge.progress import SILENT, Progress
from helium_edge.recipe import Recipe, load_recipe
from helium_edge.texts import TextSource


def export(  # noqa: PLR0913 - keywords with defaults
    source: StrPath,
    *,
    recipe: str | Recipe,
    out: StrPath,
    target: str | None = None,
    revision: str | None = None,
    cache_len: int | None = None,
    prefill_len: int | None = None,
    force: bool = False,
    parity: bool = True,
    run: bool = True,
    store: StrPath | None = None,
    calibration: StrPath | None = None,
    fast: bool = False,
    threads: int = 0,
    merge_adapter: bool = False,
    generation_config: StrPath | None = None,
    strict: bool = False,
    progress: Progress = SILENT,
) -> ExportResult:
    """Export a checkpoint to a bundle: quantize, write the graphs, run them, compare with the original, publish.

    Args:
        source: Folder, Hub id or `helium-tiny`.
        recipe: Name or file of a recipe, or a `Recipe`; of one target, unless `target` names one.
        out: The bundle's folder; it appears complete or not at all.
        target: Write for this target: `onnx`, `xnnpack` or `coreml`.
        revision: Of a Hub id.
        cache_len: Slots of the KV cache, instead of the recipe's.
        prefill_len: Tokens of a prefill chunk, instead of the recipe's.
        force: Replace an existing bundle.
        parity: Compare with the original before publishing; needs the extra `reference`.
        run: Run what was built, which `parity` needs, and keep a golden trace; this holds all weights, not one.
        store: Folder that keeps what was found for the weights, for later exports.
        calibration: Text to calibrate weights, or an int8 KV cache, on; None is the built-in one.
        fast: Do not calibrate weights, in seconds and at twice the loss or more: see `Recipe.fast`.
        threads: Threads within an operator while checking; 0 lets the runtime choose.
        merge_adapter: Merge the LoRA adapter that lies beside the weights.
        generation_config: Stop ids and sampling from this file, instead of the checkpoint's own.
        strict: Refuse a checkpoint of which anything is ignored, replaced or guessed.
        progress: Receives stages.

    Returns:
        The bundle's folder, its manifest, and the comparison.

    Raises:
        UsageError: The recipe does not fit, or `out` is taken.
        InputError: The checkpoint is unusable.
        ParityError: The graphs miss the gates of the recipe; its `report` says by how much.
        MissingDependencyError: An optional package is needed and missing.
        ResourceError: Out of disk space or memory.
    """
    chosen = load_recipe(recipe) if isinstance(recipe, str) else recipe
    if fast:
        chosen = chosen.fast()
    try:
        chosen = chosen.override([] if target is None else [target], cache_len=cache_len, prefill_len=prefill_len)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise UsageError(f"{problem['loc'][-1]} = {problem['input']}: {problem['msg']}") from error
    targets = chosen.targets.names()
    if len(targets) != 1:
        raise UsageError(
            f"recipe {chosen.name} has the targets {', '.join(targets)}",
            hint="choose one with target='onnx', for example",
        )
    (result,) = export_all(
        ExportRequest(
            source=os.fspath(source),
            recipe=chosen,
            out=Path(out),
            revision=revision,
            force=force,
            parity=parity,
            run=run,
            store=_path(store),
            calibration=_path(calibration),
            threads=threads,
            strict=strict,
            reading=ReadOptions(merge_adapter, _path(generation_config)),
        ),
        progress,
    )
    return result


def load(  # noqa: PLR0913 - keywords with defaults
    bundle: StrPath,
    *,
    revision: str | None = None,
    manifest_sha256: str | None = None,
    threads: int = 0,
    static: bool = False,
    rows: bool = False,
    unverified: bool = False,
    trusted: bool = False,
) -> AnyModel:
    """Load a bundle.

    A bundle that has not run on this machine runs in a process of its own first, with limits of time and memory:
    what ends that process, or keeps it, ends or keeps none of the caller's.

    Args:
        bundle: Its folder, or a Hub id.
        revision: Of a Hub id.
        manifest_sha256: Refuse every bundle but the one whose manifest has this.
        threads: Threads within an operator; 0 lets the runtime choose.
        static: Use the graphs of static shape even where one graph serves both phases.
        rows: Have the logits of several tokens from one call where the graphs allow it, as `lookahead` needs.
        unverified: Load a bundle whose checksums do not match.
        trusted: Run it in this process at once: for bundles of your own, and where no process can be started.

    Raises:
        BundleError: It is damaged, not the one that was asked for, of a kind that this version does not know, or
            cannot be downloaded.
        MissingDependencyError: Its runtime is not installed.
        ResourceError: Not enough memory for the cache.
        UsageError: `revision` is given for a folder.
    """
    folder = resolve_bundle(bundle, revision=revision)
    if manifest_sha256 is not None:
        check_pin(folder, manifest_sha256)
    opened = open_bundle(folder, unverified=unverified)
    if not trusted:
        ensure_runs(opened, unverified=unverified)
    return open_model(opened, threads=threads, static=static, rows=rows)


def check(  # noqa: PLR0913 - keywords with defaults
    bundle: StrPath,
    *,
    revision: str | None = None,
    checkpoint: str | None = None,
    text: StrPath | None = None,
    tokens: int = 0,
    threads: int = 0,
    static: bool = False,
    unverified: bool = False,
    store: StrPath | None = None,
    layers: bool = False,
    progress: Progress = SILENT,
) -> ParityReport | TextReport:
    """Compare a bundle with the checkpoint that it was exported from; needs the extra `reference`.

    Args:
        bundle: Its folder, or a Hub id.
        revision: Of a Hub id.
        checkpoint: The original: a folder, a Hub id or `helium-tiny`; None is where the bundle says it came from.
        text: Compare on this file, UTF-8 or `.jsonl` with `text` and `language`; None is the built-in text.
        tokens: About how many tokens to compare on, over all languages; 0 is all the text.
        threads: Threads within an operator; 0 lets the runtime choose.
        static: Run the graphs of static shape even where one graph serves both phases.
        unverified: Run a bundle whose checksums do not match.
        store: Quantized weights, as of `export`; by default they are made anew.
        layers: Of language models: find the error of every operation of every layer, also when all is well.
        progress: Receives stages.

    Returns:
        A report: `passed`, `failures`, `to_json()`; docs/parity.md explains it. Missing a gate is no exception.

    Raises:
        InputError: Bundle or checkpoint are unusable, or do not belong together.
        MissingDependencyError: The extra `reference` is missing.
        UsageError: The text cannot be read.
    """
    return check_bundle(
        resolve_bundle(bundle, revision=revision),
        checkpoint=checkpoint,
        text=TextSource(_path(text), tokens),
        threads=threads,
        static=static,
        unverified=unverified,
        store=_path(store),
        layers=layers,
        progress=progress,
    )


def _path(given: StrPath | None) -> Path | None:
    return None if given is None else Path(given)
