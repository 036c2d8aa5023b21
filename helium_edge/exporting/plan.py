"""What an export would do, known from the config and the recipe alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from helium_edge.checkpoint import ReadOptions
from helium_edge.config import ModelConfig
from helium_edge.exporting.fit import fit, split
from helium_edge.exporting.source import ExportSource, open_source
from helium_edge.presets import preset
from helium_edge.quant import PlannedWeight, plan_weights
from helium_edge.quant.calibrated import rounds_for
from helium_edge.quant.calibrated.cost import arithmetic, measure_rates, peak_bytes
from helium_edge.quant.methods import CALIBRATED
from helium_edge.recipe import Calibration, Recipe

_BASE_BYTES = 400 << 20
"""Resident memory of the interpreter with torch, onnx and onnxruntime loaded, rounded up."""


@dataclass(frozen=True)
class ExportPlan:
    """What `export` would make, known from the config and the recipe alone.

    Attributes:
        recipe: Of one target, as it was asked for.
        weights: Every matrix with its scheme.
        files: Names and estimated bytes.
        host_bytes: Estimated peak memory of the export.
        parity_bytes: The same with the comparison, which holds the original in float32.
        phone_bytes: Estimated memory on the phone, by part.
        cache_len: Slots of the cache.
        config: The model.
        calibration_seconds: Estimated time of calibrating weights on this machine; None where none are.
        warnings: What the user should know of the checkpoint, a line each.
    """

    recipe: Recipe
    weights: list[PlannedWeight]
    files: list[tuple[str, int]]
    host_bytes: int
    parity_bytes: int
    phone_bytes: dict[str, int]
    cache_len: int
    config: ModelConfig
    calibration_seconds: float | None = None
    warnings: tuple[str, ...] = ()


def plan(
    source: str,
    recipe: Recipe,
    *,
    revision: str | None = None,
    run: bool = True,
    strict: bool = False,
    reading: ReadOptions | None = None,
) -> list[ExportPlan]:
    """Say for each target what an export would do, writing nothing; raises as it does.

    The source may also be the name of a preset, a shape without weights; a folder of that name is preferred.
    """
    config = None if revision is not None or Path(source).is_dir() else preset(source)
    opened: ExportSource | None = None
    if config is None:
        opened = open_source(source, revision=revision, strict=strict, reading=reading)
        config = opened.checkpoint.config
    return [_plan(config, single, opened, run=run) for single in split(recipe).values()]


def _plan(config: ModelConfig, asked: Recipe, source: ExportSource | None, *, run: bool) -> ExportPlan:
    recipe, target = fit(config, asked)
    weights = plan_weights(config, recipe.quantization)
    files = target.plan(config, recipe, weights)
    phone = target.memory(config, recipe, weights)
    largest = max(math.prod(weight.shape) for weight in weights)
    # One weight at a time: the original's pages, its codes, their packed form. Then all as the runtime holds them.
    building = 4 * largest + target.build_memory(config, recipe, weights)
    quantization = recipe.quantization
    seconds: float | None = None
    if quantization.method == CALIBRATED:
        options = quantization.calibration or Calibration()
        building = max(building, peak_bytes(config, weights, options.tokens))
        work = arithmetic(config, weights, options.tokens, rounds_for(config, options))
        seconds = measure_rates().seconds(work)
    running = phone["weights"] + phone["activations"] if run else 0
    return ExportPlan(
        recipe=asked,
        weights=weights,
        files=files,
        host_bytes=_BASE_BYTES + max(building, running),
        parity_bytes=_BASE_BYTES + 4 * config.num_parameters + sum(phone.values()),
        phone_bytes=phone,
        cache_len=recipe.shapes.cache_len,
        config=config,
        calibration_seconds=seconds,
        warnings=() if source is None else source.warnings_for(dict(files)),
    )
