"""Recipes within a budget: bytes that are kept, rules of the base that are replaced, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from helium_edge.checkpoint import open_checkpoint
from helium_edge.config import ModelConfig
from helium_edge.errors import ConfigError, UsageError
from helium_edge.exporting import fit
from helium_edge.mixed_precision import FitRequest, fit_recipe
from helium_edge.mixed_precision.fit import Budget
from helium_edge.mixed_precision.losses import Losses
from helium_edge.presets import preset
from helium_edge.quant import plan_weights
from helium_edge.recipe import Recipe, Rule, Scheme, load_recipe
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.text_models import make_text_model

SMALL: dict[str, Any] = {"num_hidden_layers": 2, "vocab_size": 320, "max_position_embeddings": 256}


def wide() -> ModelConfig:
    """Three layers of a released model."""
    config = preset("helium-1-preview-2b")
    assert config is not None
    return dataclasses.replace(config, num_hidden_layers=3)


def made_up(budget: Budget) -> Losses:
    """Losses as they are: a quarter a bit, and more of matrices that come later."""
    return {
        group: {
            scheme: (number + 1) * (0.25**scheme.bits) * (1 + 0.01 * (scheme.group_size or 0)) for scheme in found
        }
        for number, (group, found) in enumerate(budget.candidates.items())
        if found
    }


@pytest.mark.parametrize(
    "name", ["onnx-int4", pytest.param("xnnpack-int4", marks=pytest.mark.full), "coreml-int4"]
)
def test_wide_layers_within_any_budget(name: str) -> None:
    config, base = wide(), load_recipe(name)
    budget = Budget(config, base)
    losses, before = made_up(budget), float("inf")
    for nbytes in (budget.smallest, 11 * budget.smallest // 10, 13 * budget.smallest // 10, 10 * budget.smallest):
        found = budget.best(losses, nbytes)
        recipe, target = fit(config, found.recipe)
        total = sum(size for _, size in target.plan(config, recipe, plan_weights(config, recipe.quantization)))
        assert total == found.nbytes <= nbytes
        assert found.loss <= before
        before = found.loss
    assert {scheme for _, scheme, _ in found.chosen} == {Scheme(bits=8)}


def test_what_the_base_keeps_in_float32_stays_so_and_the_rest_of_it_too() -> None:
    config, base = wide(), load_recipe("onnx-int4-kv8")
    first = Rule(match=r"model\.layers\.0\.mlp\.(gate|up)_proj\.weight", skip=True)
    quantization = base.quantization.model_copy(update={"rules": (first, *base.quantization.rules)})
    budget = Budget(config, base.model_copy(update={"quantization": quantization}))
    found = budget.best(made_up(budget), 12 * budget.smallest // 10).recipe
    plan = {planned.name: planned.scheme for planned in plan_weights(config, found.quantization)}
    assert [name for name, scheme in plan.items() if scheme is None] == [
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
    ]
    assert (found.targets, found.shapes, found.kv_cache) == (base.targets, base.shapes, "int8")


def request(source: Path | str, base: Recipe, nbytes: int) -> FitRequest:
    return FitRequest(str(source), base, nbytes)


def test_too_few_bytes_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    source, base = make_checkpoint(tmp_path / "c", **SMALL), load_recipe("onnx-int4")
    with pytest.raises(UsageError, match=r"--bytes 1,000: too few") as caught:
        fit_recipe(request(source, base, 1000))
    smallest = Budget(open_checkpoint(str(source)).config, base).smallest
    assert caught.value.hint == f"ask for --bytes {smallest} or more"
    assert fit_recipe(request(source, base, smallest)).nbytes <= smallest


def test_a_base_of_several_targets_and_a_classifier_are_refused(tmp_path: Path) -> None:
    both = load_recipe("onnx-int4").override(["onnx", "xnnpack"])
    with pytest.raises(UsageError, match="has the targets onnx, xnnpack"):
        fit_recipe(request("helium-tiny", both, 10**9))
    with pytest.raises(UsageError, match="keeps every matrix in float32"):
        fit_recipe(request("helium-tiny", load_recipe("onnx-fp32"), 10**9))
    labels = make_text_model(tmp_path / "t", "HeliumForSequenceClassification")
    with pytest.raises(ConfigError, match="losses are measured on next tokens"):
        fit_recipe(request(labels, load_recipe("onnx-int4"), 10**9))


def test_the_result_is_calibrated_whatever_the_base() -> None:
    budget = Budget(wide(), load_recipe("onnx-int8"))
    found = budget.best(made_up(budget), 2 * budget.smallest).recipe.quantization
    assert (found.method, found.calibration) == ("calibrated", None)


def test_gates_follow_what_is_predicted() -> None:
    config, base = wide(), load_recipe("onnx-int4")
    budget = Budget(config, base)
    losses = made_up(budget)
    worse, better = budget.best(losses, budget.smallest), budget.best(losses, 14 * budget.smallest // 10)
    assert base.gates.mean_kld is not None
    assert worse.recipe.gates.mean_kld == pytest.approx(
        base.gates.mean_kld * worse.loss / worse.base_loss, rel=0.01
    )
    assert worse.recipe.gates.top1 is None
    assert better.recipe.gates.top1 == base.gates.top1
