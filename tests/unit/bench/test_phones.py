"""Predictions: the formula over a table of our own, and what the committed one covers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from helium_edge.bench import phones
from helium_edge.bench.phones import PHONES, Phone, find_phone, predict, predictions
from helium_edge.config import ModelConfig
from helium_edge.errors import UsageError
from helium_edge.presets import preset
from helium_edge.recipe import load_recipe, recipe_names

SLOW_MEMORY = Phone("slow memory", "cortex-a76", 1e12, 1e6)
SLOW_CORES = Phone("slow cores", "cortex-a76", 1e6, 1e12)


def model() -> ModelConfig:
    found = preset("helium-1-preview-2b")
    assert found is not None
    return found


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One instruction and half a byte a weight, ten and a hundred a head and token, and nothing else."""
    product = {"decode": 1.0, "bytes": 0.5, "call": 0.0, "prefill": 0.25}
    attention = {"decode": 10.0, "bytes": 100.0, "call": 0.0, "chunk at 0": 1000.0, "chunk at 512": 9000.0}
    onnx = {"product int4-g32": product, "product int8-b256": product, "attention float32": attention}
    pte = {"product int4-g32": product, "product int8": product, "attention float32": attention}
    costs = {"onnx": {"cortex-a76": onnx}, "pte": {"cortex-a76": pte}}
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"runtimes": {"onnx": "onnxruntime 1", "pte": "executorch 1"}, "costs": costs}))
    monkeypatch.setattr(phones, "COSTS", path)


BODY = 24 * (2560 * 7680 + 2560 * 2560 + 3 * 2560 * 7040)
HEAD = 48000 * 2560


@pytest.mark.usefixtures("table")
def test_a_bundle_is_the_sum_of_its_operators() -> None:
    found = predict(model(), load_recipe("onnx-int4"), "onnx", SLOW_MEMORY)
    empty, _, long, prefill = found.steps
    assert (empty.instructions, empty.bytes) == (BODY + HEAD, (BODY + HEAD) / 2)
    assert long.instructions - empty.instructions == 24 * 20 * 2048 * 10
    assert long.bytes - empty.bytes == 24 * 20 * 2048 * 100
    assert prefill.instructions == pytest.approx(BODY / 4 + HEAD / 128 + 24 * 20 * 1000 / 128)
    assert prefill.bytes == pytest.approx((BODY + HEAD) / 2 / 128)
    assert (empty.seconds(SLOW_MEMORY), empty.bound(SLOW_MEMORY)) == (empty.bytes / 1e6, "memory")
    assert (empty.seconds(SLOW_CORES), empty.bound(SLOW_CORES)) == (empty.instructions / 1e6, "instructions")


@pytest.mark.usefixtures("table")
def test_a_pte_takes_every_slot_of_the_shortest_method() -> None:
    empty, some, _, _ = predict(model(), load_recipe("xnnpack-int4"), "xnnpack", SLOW_CORES).steps
    assert some.instructions - empty.instructions == 24 * 20 * (1024 - 64) * 10


@pytest.mark.usefixtures("table")
def test_what_was_not_counted_is_not_predicted() -> None:
    small = load_recipe("onnx-int4-small")
    with pytest.raises(UsageError, match="onnx-int4-small: the product int4-g128 was not counted"):
        predict(model(), small, "onnx", SLOW_CORES)
    with pytest.raises(UsageError, match="the target coreml was not counted"):
        predict(model(), small, "coreml", SLOW_CORES)
    assert predictions(model(), small, "onnx") == []


def test_the_table_has_what_shipped_recipes_are_made_of() -> None:
    """For every phone; float32 was not counted."""
    for name in recipe_names():
        recipe = load_recipe(name)
        (target,) = recipe.targets.names()
        found = predictions(model(), recipe, target)
        counted = target != "coreml" and "fp32" not in name
        assert len(found) == (len(PHONES) if counted else 0), name
        for each in found:
            assert all(0 < 1 / step.seconds(each.phone) < 1000 for step in each.steps)
            assert json.loads(json.dumps(each.to_json()))["predicted"] is True


def test_phones_are_known_by_name() -> None:
    assert dataclasses.asdict(find_phone("pixel-8"))["cpu"] == "i8mm"
    with pytest.raises(UsageError, match="no phone named 'pixel-9': snapdragon-8-gen-3, pixel-8, cortex-a78"):
        find_phone("pixel-9")
