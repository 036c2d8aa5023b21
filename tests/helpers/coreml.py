"""Exports a checkpoint to CoreML without a bundle around it, and the runners to compare."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.model.decoder import HeliumDecoder
from helium_edge.quant import QuantizedStore
from helium_edge.recipe import Recipe, load_recipe
from helium_edge.runtime.coreml_program import CoremlMethod, read_coreml
from helium_edge.runtime.coreml_runner import CoremlRunner
from helium_edge.runtime.runner import Logits
from helium_edge.runtime.torch_runner import TorchRunner
from helium_edge.signature import DecoderSpec
from helium_edge.targets.base import BuiltGraph
from helium_edge.targets.coreml.target import CoremlTarget

PREFILL_LEN, CACHE_LEN = 8, 48


@dataclass
class CoremlExport:
    """A `.pte`, the store it came from, and what a host needs to run it."""

    path: Path
    checkpoint: Checkpoint
    store: QuantizedStore
    recipe: Recipe
    spec: DecoderSpec
    graphs: list[BuiltGraph]
    planned_bytes: int

    def runner(self) -> CoremlRunner:
        """The program in the file, interpreted."""
        return CoremlRunner(self.path, self.spec)

    def torch_runner(self) -> TorchRunner:
        """Our torch decoder in float32, with the same dequantized weights."""
        return TorchRunner(HeliumDecoder(self.checkpoint.config, self.store, CACHE_LEN), PREFILL_LEN)

    def methods(self) -> dict[str, CoremlMethod]:
        """The methods in the file."""
        return read_coreml(self.path)


def coreml_recipe(name: str, **changes: Any) -> Recipe:
    """A shipped recipe at small shapes; `coreml`, `rules` and `logits` replace what it says."""
    data = load_recipe(name).model_dump(mode="json")
    # What is tested is graphs: integers that need no text, unless a test asks for others.
    data["quantization"]["method"] = changes.pop("method", "mse")
    data["shapes"] = {"prefill_len": PREFILL_LEN, "cache_len": CACHE_LEN}
    data["targets"]["coreml"] |= changes.pop("coreml", {})
    if "rules" in changes:
        data["quantization"]["rules"] = changes.pop("rules")
    return Recipe.model_validate_json(json.dumps(data | changes))


def export_coreml(source: Path | str, recipe: Recipe, folder: Path) -> CoremlExport:
    """Quantize and build into `folder`."""
    checkpoint = open_checkpoint(str(source))
    config = checkpoint.config
    folder.mkdir(parents=True)
    store = QuantizedStore(checkpoint, recipe.quantization, folder.with_name(f"{folder.name}.store"))
    target = CoremlTarget()
    target.check(config, recipe)
    ((file, planned),) = target.plan(config, recipe, store.plan)
    graphs = target.build(store, recipe, folder, lambda _: None)
    spec = DecoderSpec(config.vocab_size, target.cache(config, recipe), PREFILL_LEN, recipe.logits)
    return CoremlExport(folder / file, checkpoint, store, recipe, spec, graphs, planned)


def rms_error(found: Logits, expected: Logits) -> float:
    """rms(difference) / rms(expected); NaN when anything is."""
    difference = found.astype(np.float64) - expected
    return float(np.sqrt(np.mean(difference**2) / np.mean(np.square(expected, dtype=np.float64))))
