"""What the XNNPACK target refuses and plans, from config and recipe alone."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from helium_edge.config import ModelConfig
from helium_edge.errors import RecipeError
from helium_edge.quant import plan_weights
from helium_edge.recipe import Recipe, load_recipe, parse_recipe
from helium_edge.targets import load_target
from helium_edge.targets.metadata import metadata_methods
from helium_edge.targets.xnnpack.options import XnnpackOptions
from helium_edge.targets.xnnpack.target import XnnpackTarget, cache_buckets, prefill_buckets
from tests.helpers.checkpoints import make_checkpoint


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    folder = make_checkpoint(tmp_path / "c", hidden_size=128, head_dim=32, intermediate_size=192)
    return ModelConfig.from_file(folder / "config.json")


@pytest.fixture
def target() -> XnnpackTarget:
    """The target, as if its packages were installed."""
    return XnnpackTarget()


def recipe(name: str, prefill_len: int = 8, cache_len: int = 48, **changes: Any) -> Recipe:
    data = load_recipe(name).model_dump(mode="json")
    data["shapes"] = {"prefill_len": prefill_len, "cache_len": cache_len}
    data["targets"]["xnnpack"] |= {"cache_buckets": changes.pop("cache_buckets", [])}
    data["quantization"]["rules"] = changes.pop("rules", data["quantization"]["rules"])
    return Recipe.model_validate_json(json.dumps(data | changes))


def test_is_registered() -> None:
    assert isinstance(load_target("xnnpack"), XnnpackTarget)


@pytest.mark.parametrize(
    "name", ["xnnpack-int4", "xnnpack-int4-kv8", "xnnpack-int4-kv16", "xnnpack-int8", "xnnpack-fp32"]
)
def test_shipped_recipes_are_taken(target: XnnpackTarget, config: ModelConfig, name: str) -> None:
    target.check(config, recipe(name))


@pytest.mark.parametrize("place", ["scheme", "fallback"])
def test_zero_points_are_refused(target: XnnpackTarget, config: ModelConfig, place: str) -> None:
    rule = {"match": ".*", "scheme": "int4-g64"} | {place: "int4-g32-asym"}
    with pytest.raises(
        RecipeError, match=r"rule 1 \(match '\.\*'\) asks for int4-g32-asym; XNNPACK ignores"
    ) as found:
        target.check(config, recipe("xnnpack-int4", rules=[rule]))
    assert found.value.hint == "use the symmetric int4-g32"


def test_writing_needs_no_executorch(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    monkeypatch.setitem(sys.modules, "executorch", None)
    given = recipe("xnnpack-int4")
    XnnpackTarget().check(config, given)
    assert XnnpackTarget().plan(config, given, plan_weights(config, given.quantization))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("xnnpack-int4", "float32"), ("xnnpack-int4-kv8", "int8"), ("xnnpack-int4-kv16", "float16")],
)
def test_the_cache_is_appended_to(target: XnnpackTarget, config: ModelConfig, name: str, dtype: str) -> None:
    cache = target.cache(config, recipe(name))
    assert (cache.update, cache.dtype, cache.shape) == ("append", dtype, (2, 48, 32))


@pytest.mark.parametrize(("kind", "times"), [("kv8", 4), ("kv16", 2)])
def test_a_rounded_cache_takes_less_and_some_work_space(
    kind: str, times: int, target: XnnpackTarget, config: ModelConfig
) -> None:
    plain, quantized = (recipe(name, cache_len=1024) for name in ("xnnpack-int4", f"xnnpack-int4-{kind}"))
    weights = plan_weights(config, plain.quantization)
    before, after = (target.memory(config, each, weights) for each in (plain, quantized))
    assert after["cache"] * times == before["cache"]
    assert after["weights"] == before["weights"]
    # Of one layer, whatever their number; those of a layer are never all float32.
    assert 0 < after["activations"] - before["activations"] < 4 * 2 * config.kv_size * 1024
    ((_, few), (_, many)) = (target.plan(config, each, weights)[0] for each in (plain, quantized))
    assert 500 < many - few < 50_000


@pytest.mark.parametrize(
    ("asked", "found"),
    [([], [48]), ([16, 32], [16, 32, 48]), ([16, 48, 64], [16, 48]), ([64], [48])],
)
def test_buckets_end_with_the_full_cache(asked: list[int], found: list[int]) -> None:
    assert cache_buckets(recipe("xnnpack-int4", cache_buckets=asked)) == found


@pytest.mark.parametrize(("asked", "found"), [([], [8]), ([2, 4], [2, 4, 8]), ([4, 8, 64], [4, 8]), ([64], [8])])
def test_prefill_buckets_end_with_prefill_len(asked: list[int], found: list[int]) -> None:
    chosen = recipe("xnnpack-int4", cache_buckets=[])
    options = XnnpackOptions(prefill_buckets=tuple(asked))
    targets = chosen.targets.model_copy(update={"xnnpack": options})
    assert prefill_buckets(chosen.model_copy(update={"targets": targets})) == found


@pytest.mark.parametrize("key", ["cache_buckets", "prefill_buckets"])
@pytest.mark.parametrize("buckets", ["[32, 16]", "[16, 16]", "[1]", "[16.0]", "['16']"])
def test_buckets_are_ascending_lengths(key: str, buckets: str) -> None:
    text = f"name: a\ntargets: {{xnnpack: {{{key}: {buckets}}}}}\n"
    text += "quantization: {rules: [{match: '.*', scheme: int8}]}\n"
    with pytest.raises(RecipeError, match=key):
        parse_recipe(text, where="a")


def test_a_misspelt_option_is_corrected() -> None:
    text = (
        "name: a\ntargets: {xnnpack: {cache_bucket: []}}\nquantization: {rules: [{match: '.*', scheme: int8}]}\n"
    )
    with pytest.raises(RecipeError, match=r"unknown key 'targets\.xnnpack\.cache_bucket'") as found:
        parse_recipe(text, where="a")
    assert found.value.hint == "did you mean 'cache_buckets'?"


def test_a_bucket_costs_a_graph_and_its_cache(target: XnnpackTarget, config: ModelConfig) -> None:
    weights = plan_weights(config, load_recipe("xnnpack-int4").quantization)
    plain, more = recipe("xnnpack-int4"), recipe("xnnpack-int4", cache_buckets=[16])
    ((_, few), (_, many)) = (target.plan(config, each, weights)[0] for each in (plain, more))
    assert 10_000 < many - few < 50_000
    cache = target.cache(config, plain)
    before, after = (target.memory(config, each, weights) for each in (plain, more))
    assert after["cache"] - before["cache"] == 16 * cache.bytes_per_token
    assert after["weights"] == before["weights"]


def test_metadata_says_what_a_host_needs(config: ModelConfig) -> None:
    constants = metadata_methods(config, recipe("xnnpack-int4", logits="all"), [16, 48], [4, 8], [16])
    assert constants["get_max_seq_len"] == 8
    assert constants["get_max_context_len"] == 48
    assert constants["get_eos_ids"] == [2]
    assert constants["get_bos_id"] == 1
    assert constants["helium_edge_cache_buckets"] == [16, 48]
    assert constants["helium_edge_prefill_buckets"] == [4, 8]
    assert constants["helium_edge_prefill_cache_buckets"] == [16]
    assert constants["helium_edge_logits_all"] is True


def test_memory_of_a_build_grows_with_nodes_and_not_with_weights(
    target: XnnpackTarget, config: ModelConfig
) -> None:
    few, many = recipe("xnnpack-int4"), recipe("xnnpack-int4", cache_buckets=[16, 32])

    def estimate(config: ModelConfig, recipe: Recipe) -> int:
        return target.build_memory(config, recipe, plan_weights(config, recipe.quantization))

    deep = dataclasses.replace(config, num_hidden_layers=64)
    wide = dataclasses.replace(config, intermediate_size=64 * config.intermediate_size)
    assert estimate(config, few) == estimate(wide, few) < estimate(deep, few) < estimate(deep, many)
