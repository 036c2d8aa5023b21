"""What the CoreML target refuses and plans, from config and recipe alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helium_edge.config import ModelConfig
from helium_edge.errors import MissingDependencyError, RecipeError
from helium_edge.quant import plan_weights
from helium_edge.recipe import Recipe, load_recipe
from helium_edge.targets import load_target
from helium_edge.targets.coreml.target import CoremlTarget, deployment_target
from tests.helpers.checkpoints import make_checkpoint


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    folder = make_checkpoint(tmp_path / "c", hidden_size=128, head_dim=32, intermediate_size=192)
    return ModelConfig.from_file(folder / "config.json")


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> CoremlTarget:
    """The target, as if its packages were installed."""
    monkeypatch.setattr("helium_edge.targets.coreml.target.require_coremltools", lambda _: None)
    return CoremlTarget()


def recipe(name: str, prefill_len: int = 8, cache_len: int = 48, **coreml: Any) -> Recipe:
    data = load_recipe(name).model_dump(mode="json")
    data["shapes"] = {"prefill_len": prefill_len, "cache_len": cache_len}
    data["targets"]["coreml"] |= coreml
    return Recipe.model_validate_json(json.dumps(data))


def test_is_registered() -> None:
    assert isinstance(load_target("coreml"), CoremlTarget)


@pytest.mark.parametrize(
    ("name", "chosen", "ios"),
    [
        ("coreml-fp16", None, 17),
        ("coreml-fp16", 18, 18),
        ("coreml-int8", None, 17),
        ("coreml-int8", 18, 18),
        ("coreml-int4", None, 18),
    ],
)
def test_deployment_target_follows_from_the_schemes(name: str, chosen: int | None, ios: int) -> None:
    assert deployment_target(recipe(name, ios=chosen)) == ios


def test_shipped_recipes_run_where_they_say() -> None:
    found = {name: deployment_target(load_recipe(f"coreml-{name}")) for name in ("fp16", "int8", "int4")}
    assert found == {"fp16": 18, "int8": 17, "int4": 18}


def test_int4_is_refused_below_ios_18(target: CoremlTarget, config: ModelConfig) -> None:
    with pytest.raises(RecipeError, match=r"ios is 17, and int4 weights need 18"):
        target.check(config, recipe("coreml-int4", ios=17))


def test_missing_packages_are_named_before_any_work(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(MissingDependencyError, match=r"CoreML export .* coremltools, .*\.\[coreml\]"):
        CoremlTarget().check(config, recipe("coreml-fp16"))


def test_the_cache_is_float16_and_appended_to(target: CoremlTarget, config: ModelConfig) -> None:
    cache = target.cache(config, recipe("coreml-fp16"))
    assert (cache.dtype, cache.update, cache.shape) == ("float16", "append", (2, 48, 32))


def test_plan_counts_weights_once_from_ios_18_on(target: CoremlTarget, config: ModelConfig) -> None:
    sizes = {}
    for ios in (17, 18):
        wanted = recipe("coreml-int8", ios=ios)
        ((file, sizes[ios]),) = target.plan(config, wanted, plan_weights(config, wanted.quantization))
        assert file == "decoder.pte"
    weights = config.num_parameters  # a byte each, scales and norms beside them
    assert 0.9 * weights <= sizes[17] - sizes[18] <= 1.2 * weights


def test_memory_counts_half_floats(target: CoremlTarget, config: ModelConfig) -> None:
    wanted = recipe("coreml-fp16")
    parts = target.memory(config, wanted, plan_weights(config, wanted.quantization))
    assert parts["cache"] == 2 * 2 * 2 * 2 * 48 * 32  # bytes, layers, keys and values, heads, slots, channels
    assert parts["weights"] == pytest.approx(2 * config.num_parameters, rel=0.02)
