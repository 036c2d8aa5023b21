"""Bundles of helium-tiny-chat without training: its form, template and stop ids, not its answers."""

from __future__ import annotations

from pathlib import Path

from helium_edge import export
from tests.helpers.bundles import bundle_recipe
from tiny_chat import write_checkpoint

PREFILL_LEN, CACHE_LEN = 32, 512


def chat_checkpoint(folder: Path) -> Path:
    """The fine-tune before its first step."""
    write_checkpoint(folder, steps=0)
    return folder


def chat_bundle(
    checkpoint: Path, recipe: str, folder: Path, generation_config: Path | None = None, **changes: object
) -> Path:
    """Export with a cache that a long conversation fills."""
    made = bundle_recipe(recipe, **changes)
    shapes = made.shapes.model_copy(update={"prefill_len": PREFILL_LEN, "cache_len": CACHE_LEN})
    recipe_of_it = made.model_copy(update={"shapes": shapes})
    export(checkpoint, recipe=recipe_of_it, out=folder, parity=False, generation_config=generation_config)
    return folder
