"""Checkpoints that transformers loads under other names, or with more in them: the same weights, and a warning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from tests.helpers.checkpoints import make_checkpoint, random_weights, tiny_config, write_weights
from tests.unit.checkpoint.support import refusal

Weights = dict[str, torch.Tensor]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def renamed(change: Callable[[str], str]) -> Callable[[Weights], Weights]:
    return lambda weights: {change(name): tensor for name, tensor in weights.items()}


def without_prefix(name: str) -> str:
    return name.removeprefix("model.")


def written(folder: Path, change: Callable[[Weights], Weights], *, shards: int = 1, **config: Any) -> Path:
    make_checkpoint(folder, **config)
    (folder / "model.safetensors").unlink()
    write_weights(folder, change(random_weights(tiny_config(**config))), shards=shards)
    return folder


def same(checkpoint: Checkpoint, weights: Weights) -> bool:
    return all(torch.equal(checkpoint.read(name), weights[name]) for name in weights)


@pytest.mark.parametrize("shards", [1, 3])
def test_names_without_the_first_part(tmp_path: Path, shards: int) -> None:
    checkpoint = open_checkpoint(str(written(tmp_path, renamed(without_prefix), shards=shards)))
    assert same(checkpoint, random_weights(tiny_config()))
    assert (checkpoint.warnings, checkpoint.is_renamed) == ((), True)  # transformers 4 does not find them


@pytest.mark.parametrize("prefix", [True, False])
def test_a_tied_head_may_be_the_name_that_is_stored(tmp_path: Path, prefix: bool) -> None:
    def change(weights: Weights) -> Weights:
        weights[HEAD] = weights.pop(EMBEDDING)
        return weights if prefix else renamed(without_prefix)(weights)

    checkpoint = open_checkpoint(str(written(tmp_path, change, tie_word_embeddings=True)))
    assert same(checkpoint, random_weights(tiny_config(tie_word_embeddings=True)))
    assert HEAD not in checkpoint.tensors
    assert checkpoint.is_renamed


def test_an_untied_head_stands_for_nothing_else(tmp_path: Path) -> None:
    text = refusal(written(tmp_path, lambda weights: {n: t for n, t in weights.items() if n != EMBEDDING}))
    assert "1 tensor is missing: model.embed_tokens.weight" in text


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda name: f"_orig_mod.{name}", "'_orig_mod.'"),
        (lambda name: f"module.{name}", "'module.'"),
        (lambda name: f"module._orig_mod.{name}", "'module.', '_orig_mod.'"),
        (lambda name: name.replace("model.", "model._orig_mod."), "'_orig_mod.'"),
        (lambda name: name.replace("layers.1.", "layers.1._orig_mod."), "'_orig_mod.'"),
        (lambda name: f"base_model.model.{name}", "'base_model.model.'"),
        (lambda name: f"pretrained_model.{name}", "'pretrained_model.'"),
        (lambda name: f"_orig_mod.{without_prefix(name)}", "'_orig_mod.'"),
    ],
)
def test_wrappers_are_taken_out_of_the_names(tmp_path: Path, change: Callable[[str], str], shown: str) -> None:
    checkpoint = open_checkpoint(str(written(tmp_path, renamed(change))))
    assert same(checkpoint, random_weights(tiny_config()))
    assert checkpoint.warnings == (
        f"model.safetensors: {shown} of a wrapper around the model was taken out of the names",
    )


def test_a_wrapped_copy_beside_the_plain_one_is_refused(tmp_path: Path) -> None:
    def change(weights: Weights) -> Weights:
        return weights | {f"_orig_mod.{HEAD}": weights[HEAD].clone()}

    assert "are one tensor, saved twice" in refusal(written(tmp_path, change))


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize(
    "names",
    [
        ["v_head.summary.weight", "v_head.summary.bias"],
        ["score.weight"],
        ["reward_head.0.weight", "q_head.bias"],
        ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.1.self_attn.rotary_emb.inv_freq"],
        ["vision_tower.patch.weight"],
    ],
    ids=lambda names: names[0],
)
def test_what_the_class_has_no_place_for_is_ignored_and_named(
    tmp_path: Path, names: list[str], prefix: bool
) -> None:
    def change(weights: Weights) -> Weights:
        weights |= {name: torch.ones(8, dtype=torch.float64) for name in names}
        return weights if prefix else renamed(without_prefix)(weights)

    checkpoint = open_checkpoint(str(written(tmp_path, change)))
    assert same(checkpoint, random_weights(tiny_config()))
    (line,) = checkpoint.warnings
    assert line.startswith("model.safetensors: ")
    assert "HeliumForCausalLM ignored, as transformers does" in line
    assert all((name if prefix else without_prefix(name)) in line for name in names)


@pytest.mark.parametrize(
    "architecture", ["HeliumForSequenceClassification", "HeliumForTokenClassification", "HeliumModel"]
)
def test_the_head_of_the_language_model_beside_another_class(tmp_path: Path, architecture: str) -> None:
    config = tiny_config(architectures=[architecture])
    folder = written(tmp_path, lambda weights: weights | {HEAD: torch.ones(160, 64)}, architectures=[architecture])
    checkpoint = open_checkpoint(str(folder))
    assert HEAD not in checkpoint.tensors
    assert len(checkpoint.tensors) == len(random_weights(config))
    (line,) = checkpoint.warnings
    assert f"a tensor without a place in {architecture} ignored, as transformers does: lm_head.weight" in line


@pytest.mark.parametrize("named", [[], None, ["PeftModelForCausalLM"]], ids=str)
@pytest.mark.parametrize(
    ("saved", "change"),
    [
        ("HeliumForCausalLM", dict),
        ("HeliumForSequenceClassification", dict),
        ("HeliumForTokenClassification", dict),
        ("HeliumModel", dict),
        ("HeliumForCausalLM", renamed(without_prefix)),
    ],
    ids=["language model", "texts", "tokens", "bare", "language model without prefix"],
)
def test_the_tensors_tell_the_class(
    tmp_path: Path, named: Any, saved: str, change: Callable[[Weights], Weights]
) -> None:
    folder = written(tmp_path, change, architectures=[saved])
    (folder / "config.json").write_text(json.dumps(tiny_config(architectures=named)))
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.config.architecture == saved
    assert checkpoint.warnings == (
        f"config.json: architectures names no class; by model_type and tensors it is {saved}",
    )


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.arange(4, 40)[None]).logits


@pytest.mark.parametrize("kind", ["prefix", "tied", "wrapped", "extra"])
def test_the_reference_gives_the_logits_of_the_full_file(tmp_path: Path, kind: str) -> None:
    from helium_edge.parity.reference import load_reference

    def tied_head_only(weights: Weights) -> Weights:
        return {HEAD: weights.pop(EMBEDDING), **weights}

    config = {"tie_word_embeddings": True} if kind == "tied" else {}
    change = {
        "prefix": renamed(without_prefix),
        "tied": tied_head_only,
        "wrapped": renamed(lambda name: f"_orig_mod.{name}"),
        "extra": lambda weights: weights | {"v_head.summary.weight": torch.ones(1, 64)},
    }[kind]
    checkpoint = open_checkpoint(str(written(tmp_path / "odd", change, **config)))
    with torch.no_grad():
        found = load_reference(checkpoint)(torch.arange(4, 40)[None]).logits
    assert torch.equal(found, loaded(make_checkpoint(tmp_path / "full", **config)))


@pytest.mark.parametrize(
    ("suffixes", "says"),
    [
        (["qweight", "qzeros", "scales", "g_idx"], "holds GPTQ tensors"),
        (["qweight", "qzeros", "scales"], "holds GPTQ or AWQ tensors"),
        (["weight", "weight.absmax", "weight.quant_map"], "holds bitsandbytes tensors"),
        (["weight", "SCB"], "holds bitsandbytes tensors"),
        (["weight", "weight_scale"], "holds scaled FP8 tensors"),
        (["weight_packed", "weight_scale", "weight_shape"], "holds compressed-tensors tensors"),
        (["weight", "scales", "biases"], "holds quantized tensors"),
        (["base_layer.weight", "lora_A.default.weight", "lora_B.default.weight"], "holds LoRA tensors"),
    ],
)
def test_tensors_of_another_kind_are_told_by_their_names(tmp_path: Path, suffixes: list[str], says: str) -> None:
    part = "model.layers.1.mlp.up_proj"

    def change(weights: Weights) -> Weights:
        weights.pop(f"{part}.weight")
        return weights | {f"{part}.{suffix}": torch.zeros(4) for suffix in suffixes}

    text = refusal(written(tmp_path, change))
    assert text.startswith(f"model.safetensors: {says}: {part}.")
    assert ("merge_and_unload" if "LoRA" in says else "bring the unquantized checkpoint") in text
    assert "num_hidden_layers" not in text


def test_a_byte_order_mark_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    for encoding in ("utf-8-sig", "utf-16"):
        (folder / "config.json").write_text(json.dumps(tiny_config()), encoding=encoding)
        assert "byte order mark" in refusal(folder)
