"""The walk: which inputs each matrix is calibrated on, folds that change no function, and what it is all worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helium_edge.checkpoint import Checkpoint
from helium_edge.model.decoder import ACTIVATIONS, DecoderLayer, causal_mask
from helium_edge.model.parts import DenseParts, RmsNorm
from helium_edge.model.rope import rope_tables
from helium_edge.model.weights import EMBEDDING, FINAL_NORM, vector_names
from helium_edge.quant import METHODS, PlannedWeight, QuantizedStore, dequantize, plan_weights
from helium_edge.quant.calibrated.folds import Folds, choose_factors
from helium_edge.quant.calibrated.inputs import INPUTS, readers
from helium_edge.quant.calibrated.method import Calibrated
from helium_edge.quant.calibrated.statistics import collect
from helium_edge.quant.calibrated.walk import Walk, WalkOptions
from helium_edge.recipe import Quantization, Scheme
from tests.helpers.progress import Recorder
from tests.unit.quant.calibrated import models
from tests.unit.quant.stores import A32, G32, INT8, assert_same

OPTIONS = WalkOptions(damping=0.1, rounds=1, folds=True)


def walk(checkpoint: Checkpoint, wanted: Quantization, **changes: Any) -> tuple[Walk, models.Kept]:
    kept = models.Kept()
    options = WalkOptions(**(vars(OPTIONS) | changes))
    plan = plan_weights(checkpoint.config, wanted)
    done = Walk(checkpoint.config, plan, models.Original(checkpoint), models.texts(checkpoint), options, kept)
    done.run()
    return done, kept


def plan_of(checkpoint: Checkpoint, wanted: Quantization) -> list[PlannedWeight]:
    return plan_weights(checkpoint.config, wanted)


class Exported:
    """What a walk found, for the torch decoder."""

    def __init__(self, checkpoint: Checkpoint, done: Walk, kept: models.Kept) -> None:
        self._original, self._done, self._kept = models.Original(checkpoint), done, kept

    def dense(self, name: str) -> Tensor:
        found = self._kept.found.get(name)
        return self.vector(name) if found is None else dequantize(found)

    def vector(self, name: str) -> Tensor:
        return self._done.folds.apply(name, self._original.read(name))


def inputs_of(checkpoint: Checkpoint, weights: Any) -> dict[tuple[int | None, str], Tensor]:
    """What each matrix of a finished model reads over all texts, (T, K): by layer and input, and of the head."""
    config, seen = checkpoint.config, {}
    layers = [
        DecoderLayer(config, DenseParts(config, weights), index, ACTIVATIONS[config.hidden_act])
        for index in range(config.num_hidden_layers)
    ]
    norm = RmsNorm(weights.vector(FINAL_NORM), config.rms_norm_eps)
    for text in models.texts(checkpoint):
        states = weights.dense(EMBEDDING)[torch.tensor(text)]
        rope, mask = rope_tables(config.rope_theta, config.head_dim, len(text)), causal_mask(config, len(text))
        for index, layer in enumerate(layers):
            attention = layer.norm1(states)
            mixed = layer.mix(attention, rope, (None, mask), None)[0]
            states = states + layer.o(mixed)
            mlp = layer.norm2(states)
            gated = layer.gated(mlp)
            states = states + layer.down(gated)
            for name, rows in zip(INPUTS, (attention, mixed, mlp, gated), strict=True):
                seen.setdefault((index, name), []).append(rows)
        seen.setdefault((None, "head"), []).append(norm(states))
    return {key: torch.cat(rows) for key, rows in seen.items()}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, models.quantization(G32)),
        (models.BIASES, models.quantization(G32, v_proj=INT8, gate_proj=None)),
        ({"num_key_value_heads": 1}, models.quantization(A32)),
    ],
    ids=["plain", "biases, mixed", "asymmetric"],
)
def test_every_matrix_is_what_the_method_makes_of_its_inputs(
    changes: dict[str, Any], wanted: Quantization, tmp_path: Path
) -> None:
    """Run the original and the finished export, take what each matrix reads in both, and calibrate it anew."""
    checkpoint = models.model(tmp_path / "c", **changes)
    done, kept = walk(checkpoint, wanted)
    with torch.inference_mode():
        expected = inputs_of(checkpoint, models.Original(checkpoint))
        found = inputs_of(checkpoint, Exported(checkpoint, done, kept))
        method, looked_at = Calibrated(OPTIONS.damping, OPTIONS.rounds), 0
        places = [(layer, name, readers(layer, name)) for layer in range(2) for name in INPUTS]
        for layer, name, names in [*places, (None, "head", ["lm_head.weight"])]:
            factors = kept.folds[layer][name]
            statistics = collect(found[layer, name], expected[layer, name] / factors)
            for weight in names:
                scheme = next(planned.scheme for planned in plan_of(checkpoint, wanted) if planned.name == weight)
                if scheme is None:
                    continue
                original = done.folds.apply(weight, models.Original(checkpoint).read(weight))
                again = method([original], statistics, scheme)[0]
                agree = (kept.found[weight].codes == again.codes).double().mean()
                assert float(agree) > 0.99, (weight, float(agree))
                looked_at += 1
    assert (
        looked_at == sum(planned.scheme is not None for planned in plan_of(checkpoint, wanted)) - 1
    )  # but the embedding


def test_folds_change_no_function(tmp_path: Path) -> None:
    """With factors far from 1 at every place, grouped-query attention and biases, logits stay as they are."""
    checkpoint = models.model(tmp_path / "c", **models.BIASES)
    config, folds = checkpoint.config, Folds(checkpoint.config)
    generator = torch.Generator().manual_seed(0)

    def factors(count: int) -> Tensor:
        return torch.exp(torch.randn(count, generator=generator))

    shared = factors(config.num_key_value_heads * config.head_dim).view(config.num_key_value_heads, 1, -1)
    for layer in range(config.num_hidden_layers):
        groups = config.num_attention_heads // config.num_key_value_heads
        mixed = shared.expand(-1, groups, -1).reshape(-1)
        sizes = {"attention": config.hidden_size, "mlp": config.hidden_size, "gated": config.intermediate_size}
        folds.add_layer(layer, {name: factors(size) for name, size in sizes.items()} | {"mixed": mixed})
    folds.add_head(factors(config.hidden_size))
    original = models.Original(checkpoint)

    class Folded:
        def dense(self, name: str) -> Tensor:
            return folds.apply(name, original.read(name))

        vector = dense

    ids = models.texts(checkpoint)[0]
    expected, found = models.outputs(checkpoint, original, ids), models.outputs(checkpoint, Folded(), ids)
    assert float((found - expected).abs().max() / expected.square().mean().sqrt()) < 1e-5
    vectors = vector_names(config)
    touched = {name for name in vectors if not torch.equal(Folded().vector(name), original.vector(name))}
    assert {".".join(name.split(".")[-2:]) for name in touched} == {
        "input_layernorm.weight", "post_attention_layernorm.weight", "norm.weight", "v_proj.bias", "up_proj.bias",
    }  # fmt: skip


def test_factors_meet_large_channels_and_leave_others_alone() -> None:
    weight = torch.randn(64, 64) * 0.3
    power = torch.ones(64)
    assert torch.equal(choose_factors(power, [(weight, G32)]), torch.ones(64))
    power[7] = 900.0
    folded = weight.clone()
    folded[:, 7] /= 30
    found = choose_factors(power, [(folded, G32)])
    assert float(found[7] / found[8]) > 5
    assert torch.equal(found, found.bfloat16().float())
    assert torch.equal(choose_factors(power, [(folded, None)]), torch.ones(64))
    assert torch.equal(choose_factors(torch.zeros(64), [(folded, G32)]), torch.ones(64))
    shared = choose_factors(power, [(folded, G32)], shared=(2, 16)).view(2, 2, 16)
    assert torch.equal(shared[:, 0], shared[:, 1])


def errors(checkpoint: Checkpoint, weights: Any) -> float:
    """Mean squared error of the logits on other text, against the mean square of the original's."""
    texts = models.texts(checkpoint, seed=100)
    expected = models.outputs(checkpoint, models.Original(checkpoint), *texts)
    found = models.outputs(checkpoint, weights, *texts)
    return float((found - expected).square().sum() / expected.square().sum())


@pytest.mark.parametrize(
    "changes", [{}, models.BIASES, {"tie_word_embeddings": True}], ids=["plain", "biases", "tied"]
)
def test_it_is_better_than_mse_and_folds_are_what_large_channels_need(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = models.model(tmp_path / "c", **changes)
    wanted = models.quantization(G32)
    by_mse = QuantizedStore(checkpoint, wanted.model_copy(update={"method": "mse"}), tmp_path / "mse")
    blind = errors(checkpoint, by_mse)
    without = errors(checkpoint, Exported(checkpoint, *walk(checkpoint, wanted, folds=False)))
    found = errors(checkpoint, Exported(checkpoint, *walk(checkpoint, wanted)))
    assert found < without < blind
    assert found < 0.5 * blind


def test_a_model_without_large_channels_gains_too(tmp_path: Path) -> None:
    checkpoint = models.model(tmp_path / "c", hot=1.0)
    wanted = models.quantization(G32)
    blind = QuantizedStore(checkpoint, wanted.model_copy(update={"method": "mse"}), tmp_path / "mse")
    found = errors(checkpoint, Exported(checkpoint, *walk(checkpoint, wanted)))
    assert found < 0.8 * errors(checkpoint, blind)


def test_embedding_and_tied_head_are_rounded_as_mse_does(tmp_path: Path) -> None:
    checkpoint = models.model(tmp_path / "c", tie_word_embeddings=True)
    done, kept = walk(checkpoint, models.quantization(G32))
    expected = METHODS["mse"](models.Original(checkpoint).read(EMBEDDING), INT8)
    assert_same(kept.found[EMBEDDING], expected)
    assert_same(kept.found["lm_head.weight"], expected)
    assert None not in kept.folds
    # With a format of its own it has numbers of its own, and may be calibrated; its norm is the embedding's too.
    done, kept = walk(checkpoint, models.quantization(G32, lm_head=Scheme(bits=4, group_size=64)))
    assert kept.found["lm_head.weight"].scheme.group_size == 64
    assert torch.equal(done.folds.apply(FINAL_NORM, torch.ones(64)), torch.ones(64))


@pytest.mark.parametrize(
    "architecture", ["HeliumForSequenceClassification", "LlamaForTokenClassification", "HeliumModel"]
)
def test_models_that_are_no_language_models(architecture: str, tmp_path: Path) -> None:
    labels = {"id2label": {str(index): f"L{index}" for index in range(3)}} if "Class" in architecture else {}
    family = "llama" if architecture.startswith("Llama") else "helium"
    checkpoint = models.model(tmp_path / "c", architectures=[architecture], model_type=family, **labels)
    wanted = models.quantization(G32)
    done, kept = walk(checkpoint, wanted)
    assert set(kept.found) == {planned.name for planned in plan_of(checkpoint, wanted)}
    blind = QuantizedStore(checkpoint, wanted.model_copy(update={"method": "mse"}), tmp_path / "mse")
    assert errors(checkpoint, Exported(checkpoint, done, kept)) < 0.5 * errors(checkpoint, blind)


def test_progress_is_by_layer(tmp_path: Path) -> None:
    checkpoint, progress = models.model(tmp_path / "c"), Recorder()
    store = models.open_store(checkpoint, tmp_path / "s", models.quantization(G32))
    store.prepare(progress)
    assert progress.notes == ["layer 0", "layer 1", "head"]
    assert store.steps == 3
