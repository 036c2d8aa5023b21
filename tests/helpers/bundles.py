"""Bundles of random checkpoints, with the store that they came from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helium_edge import export
from helium_edge.bundle import Bundle, open_bundle
from helium_edge.checkpoint import open_checkpoint
from helium_edge.quant import QuantizedStore
from helium_edge.recipe import Recipe, load_recipe

PREFILL_LEN, CACHE_LEN = 8, 48
# std 0.1 is near 1/sqrt(hidden_size): the attention is not saturated, so that rounding is not amplified.
MODEL: dict[str, Any] = {
    "seed": 5, "std": 0.1, "hidden_size": 128, "head_dim": 32, "intermediate_size": 192, "num_hidden_layers": 3,
}  # fmt: skip


@dataclass
class Exported:
    """A published bundle and its store."""

    folder: Path
    store: QuantizedStore

    def open(self) -> Bundle:
        """The bundle, whatever was done to its files."""
        return open_bundle(self.folder, unverified=True)


def bundle_recipe(name: str, **changes: Any) -> Recipe:
    """A shipped recipe at small shapes; `shapes`, `rules`, `logits`, options of targets replace its own."""
    data = load_recipe(name).model_dump(mode="json")
    # What is tested is graphs: integers that need no text, unless a test asks for others.
    data["quantization"]["method"] = changes.pop("method", "mse")
    data["shapes"] = {"prefill_len": PREFILL_LEN, "cache_len": CACHE_LEN} | changes.pop("shapes", {})
    if "rules" in changes:
        data["quantization"]["rules"] = changes.pop("rules")
    for target in ("onnx", "xnnpack", "coreml"):
        if target in changes:
            data["targets"][target] |= changes.pop(target)
    return Recipe.model_validate_json(json.dumps(data | changes))


def export_bundle(source: Path | str, recipe: Recipe, folder: Path) -> Exported:
    """Export into `folder`, with the store kept beside it."""
    shards = folder.with_name(f"{folder.name}.store")
    export(source, recipe=recipe, out=folder, parity=False, store=shards)
    return Exported(folder, QuantizedStore(open_checkpoint(str(source)), recipe.quantization, shards))
