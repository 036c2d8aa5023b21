"""Whole bundles of two layers, counted, beside the sum of their operators that predictions are made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from arm64.counting import Count, count_jobs
from arm64.jobs import CHUNK, HEAD_DIM, INNER, ONE_METHOD_A_PHASE, WIDTH, build, make_config
from arm64.operators import Array, Job, Output
from arm64.toolchain import Toolchain
from arm64.wheels import Library
from helium_edge.bench.phones import PHONES, predict
from helium_edge.config import ModelConfig
from helium_edge.recipe import Recipe, load_recipe
from helium_edge.signature import GraphSignature, Phase
from helium_edge.targets import load_target

LAYERS, VOCABULARY = 2, 16_000
CACHE_LEN = 1024
CONTEXT = 512
"""Tokens in the cache at the decode step that is counted."""
RECIPES = {
    "onnx": ("onnx-int4", "onnx-int4-small", "onnx-int4-kv16", "onnx-int4-kv8"),
    "pte": ("xnnpack-int4", "xnnpack-int4-kv16", "xnnpack-int4-kv8"),
}


@dataclass(frozen=True)
class Whole:
    """One call of a bundle.

    Attributes:
        recipe: Of the bundle.
        phase: `decode` at `CONTEXT`, or `prefill` of `CHUNK` tokens into an empty cache.
        count: What it executed.
        instructions: What the sum of its operators says.
        bytes: Likewise, from memory.
    """

    recipe: str
    phase: Phase
    count: Count
    instructions: float
    bytes: float

    @property
    def off(self) -> float:
        """By what share the sum misses the instructions."""
        return self.instructions / self.count.instructions - 1


def count_whole(tools: Toolchain, library: Library, runtime: str, cpu: str, folder: Path) -> Iterator[Whole]:
    """Build a bundle of each recipe in a folder, and count a decode step and a prefill."""
    config = replace(make_config(WIDTH, INNER, VOCABULARY, WIDTH // HEAD_DIM), num_hidden_layers=LAYERS)
    phone = next(phone for phone in PHONES.values() if phone.cpu == cpu)
    for name in RECIPES[runtime]:
        recipe = _recipe(name)
        (target,) = recipe.targets.names()
        build(config, recipe, folder / name)
        jobs = [_job(config, recipe, folder / name, phase) for phase in ("decode", "prefill")]
        decode, prefill = count_jobs(tools, library, cpu, folder / name, jobs)
        steps = predict(config, recipe, target, phone).steps
        (step,) = [step for step in steps if step.context == CONTEXT]
        yield Whole(name, "decode", decode, step.instructions, step.bytes)
        yield Whole(name, "prefill", prefill, CHUNK * steps[-1].instructions, CHUNK * steps[-1].bytes)


def _recipe(name: str) -> Recipe:
    data = load_recipe(name).model_dump(mode="json")
    data["shapes"] = {"prefill_len": CHUNK, "cache_len": CACHE_LEN}
    data["quantization"] = {"method": "rtn", "rules": data["quantization"]["rules"]}
    for target, options in data["targets"].items():
        if target == "xnnpack" and options is not None:
            options |= ONE_METHOD_A_PHASE
    return Recipe.model_validate_json(json.dumps(data))


def _job(config: ModelConfig, recipe: Recipe, folder: Path, phase: Phase) -> Job:
    (name,) = recipe.targets.names()
    cache = load_target(name).cache(config, recipe)
    rows = 1 if phase == "decode" else CHUNK
    onnx = name == "onnx"
    signature = GraphSignature(
        "any" if onnx else phase, rows, config.vocab_size, cache, index_dtype="int32" if onnx else "int64"
    )
    given: dict[str, Any] = {
        "tokens": 5,
        "past_length": CONTEXT if phase == "decode" else 0,
        "last_index": rows - 1,
    }
    inputs: dict[str, Array] = {
        spec.name: np.full([int(dim) for dim in spec.shape], given.get(spec.role, 1), spec.dtype)
        for spec in signature.inputs()
    }
    pasts = iter(
        [spec.name for spec in signature.inputs() if spec.role.startswith("past_") and len(spec.shape) > 1]
    )
    outputs = {
        spec.name: Output(
            tuple(int(dim) for dim in spec.shape),
            spec.dtype,
            next(pasts) if spec.role.startswith("present_") else None,
        )
        for spec in signature.outputs()
    }
    file = next(folder.glob("decoder.onnx" if onnx else "*.pte")).name
    return Job(file, inputs, outputs, "" if onnx else phase)
