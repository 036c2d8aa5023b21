"""What a report says of the bundle that was measured."""

from __future__ import annotations

from typing import Any

from helium_edge.bundle import Manifest


def describe(manifest: Manifest, runtime_version: str) -> dict[str, Any]:
    """Name, recipe, target, runtime and size, as plain data."""
    return {
        "name": manifest.name,
        "recipe": manifest.quantization.recipe_name,
        "target": manifest.target.name,
        "runtime": manifest.runtime,
        "runtime_version": runtime_version,
        "parameters": manifest.model.parameters,
        "cache_len": manifest.cache_len if manifest.cache is not None else None,
    }


def estimate(manifest: Manifest) -> dict[str, int]:
    """What the manifest foretells of memory, in bytes by part."""
    memory = manifest.memory
    return {
        "weights": memory.weights_bytes,
        "packed": memory.packed_bytes,
        "cache": memory.cache_bytes,
        "activations": memory.activations_bytes,
    }
