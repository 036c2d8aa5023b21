"""From what an export has at hand to the manifest of its bundle."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

import helium_edge
from helium_edge.bundle import (
    CacheScalesSection,
    CacheSection,
    CalibrationSection,
    CreatedBy,
    GraphEntry,
    Manifest,
    MemorySection,
    ModelSection,
    OutputSection,
    QuantizationSection,
    SourceSection,
    TargetSection,
    TokensSection,
    generation_defaults,
    read_checkpoint_card,
    tokenizer_facts,
)
from helium_edge.exporting.source import ExportSource
from helium_edge.quant import QuantizedStore
from helium_edge.recipe import Recipe
from helium_edge.targets.base import BuiltGraph, Target


def describe(
    source: ExportSource,
    recipe: Recipe,
    target: Target,
    graphs: Sequence[BuiltGraph],
    store: QuantizedStore,
    scales: CacheScalesSection | None = None,
    calibration: CalibrationSection | None = None,
) -> Manifest:
    """Describe a bundle that has been built; golden trace, parity and the list of files are added later.

    Args:
        source: Where it comes from.
        recipe: What was exported.
        target: What built the graphs.
        graphs: The graphs.
        store: Their weights.
        scales: Of an int8 cache.
        calibration: Of weights that were calibrated.

    Raises:
        CheckpointError: A companion file of the checkpoint is malformed.
    """
    checkpoint, companions = source.checkpoint, source.companions
    config = checkpoint.config
    merged = companions.tokenizer
    path, *_ = checkpoint.tokenizer_files()
    tokenizer, add_bos = tokenizer_facts(path, bos=config.bos_token_id, content=merged.content)
    tokenizer = tokenizer.model_copy(update={"merged_from": dict(merged.merged_from)})
    tokens = TokensSection.from_config(config, add_bos=add_bos, forbidden=companions.forbidden)
    memory = target.memory(config, recipe, store.plan)
    reports = store.reports()
    return Manifest(
        name=f"{checkpoint.source.rsplit('/', 1)[-1]}-{recipe.name}",
        created_by=CreatedBy(
            version=helium_edge.__version__,
            libraries={name: importlib.metadata.version(name) for name in sorted({"torch", *target.libraries})},
        ),
        runtime=target.runtime,
        runtime_min_version=target.min_runtime(config, recipe),
        target=TargetSection(
            name=target.name, options=getattr(recipe.targets, target.name).model_dump(mode="json")
        ),
        source=SourceSection(
            checkpoint=checkpoint.source,
            revision=checkpoint.revision,
            license=read_checkpoint_card(checkpoint.folder).license,
            files=checkpoint.hashes(),
        ),
        model=ModelSection.from_config(config),
        tokens=tokens,
        tokenizer=tokenizer,
        quantization=QuantizationSection.from_reports(
            recipe, reports, fingerprint=store.fingerprint(), calibration=calibration
        ),
        graphs=tuple(
            GraphEntry.from_signature(
                graph.file,
                graph.signature,
                method=graph.method,
                operators=graph.operators,
                libraries=graph.libraries,
                planned_outputs=graph.planned_outputs,
            )
            for graph in graphs
        ),
        head=OutputSection.from_config(config),
        cache=CacheSection.from_spec(target.cache(config, recipe), scales) if config.task.has_cache else None,
        logits=recipe.logits,
        prefill_len=recipe.shapes.prefill_len,
        cache_len=recipe.shapes.cache_len,
        generation=generation_defaults(checkpoint),
        chat=source.chat,
        memory=MemorySection.estimate(
            weights_bytes=sum(report.nbytes for report in reports),
            packed_bytes=memory["weights"],
            cache_bytes=memory["cache"],
            activations_bytes=memory["activations"],
        ),
    )
