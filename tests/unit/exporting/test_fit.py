"""A recipe made to fit a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from helium_edge.config import ModelConfig
from helium_edge.errors import RecipeError
from helium_edge.exporting.fit import fit, split
from helium_edge.recipe import load_recipe, recipe_names


@pytest.fixture
def config(tiny_checkpoint: Path) -> ModelConfig:
    return ModelConfig.from_file(tiny_checkpoint / "config.json")


@pytest.mark.parametrize("name", recipe_names())
def test_a_prefill_as_long_as_the_cache_is_refused_for_every_target(name: str, config: ModelConfig) -> None:
    recipe = load_recipe(name).override(prefill_len=48, cache_len=48)
    with pytest.raises(RecipeError, match="prefill_len 48 must be below the cache_len 48"):
        fit(config, recipe)


def test_each_target_gets_its_own_options() -> None:
    recipe = load_recipe("xnnpack-int4").override(targets=["xnnpack", "onnx"])
    found = split(recipe)
    assert {name: single.targets.names() for name, single in found.items()} == {
        "onnx": ("onnx",),
        "xnnpack": ("xnnpack",),
    }
    assert found["xnnpack"].targets.model_dump()["xnnpack"]["prefill_buckets"] == (8, 32)
