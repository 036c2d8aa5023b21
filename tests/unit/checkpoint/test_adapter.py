"""LoRA adapters: merged exactly as peft merges them, or refused by name."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from helium_edge.checkpoint import ReadOptions, open_checkpoint
from helium_edge.errors import CheckpointError, HeliumEdgeError, UsageError
from tests.helpers.checkpoints import make_checkpoint
from tests.unit.checkpoint.support import refusal

MERGED = ReadOptions(merge_adapter=True)
SETTINGS = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 10,
    "target_modules": ["q_proj"],
    "base_model_name_or_path": "x/y",
}
TARGETS = {"q_proj": (64, 64), "v_proj": (32, 64), "down_proj": (64, 96)}


def module(layer: int, name: str) -> str:
    return f"model.layers.{layer}.{'mlp' if name == 'down_proj' else 'self_attn'}.{name}"


def factors(rank: int = 4, *, layers: int = 2) -> dict[str, torch.Tensor]:
    found = {}
    for layer in range(layers):
        for name, (rows, columns) in TARGETS.items():
            prefix = f"base_model.model.{module(layer, name)}"
            found[f"{prefix}.lora_A.weight"] = torch.randn(rank, columns) * 0.3
            found[f"{prefix}.lora_B.weight"] = torch.randn(rows, rank) * 0.3
    return found


def write_adapter(folder: Path, tensors: Mapping[str, torch.Tensor], **settings: Any) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(SETTINGS | settings), encoding="utf-8")
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model")


def merge_refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(folder), options=MERGED)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "scale"),
    [({}, 10 / 4), ({"use_rslora": True}, 10 / math.sqrt(4)), ({"lora_alpha": 3.5}, 3.5 / 4)],
    ids=["plain", "rank-stabilised", "a fraction"],
)
def test_a_merge_is_w_plus_the_scaled_product(folder: Path, settings: dict[str, Any], scale: float) -> None:
    base = open_checkpoint(str(folder))
    tensors = factors()
    merged = open_checkpoint(str(write_adapter(folder, tensors, **settings)), options=MERGED)
    for name, info in merged.tensors.items():
        weight, module_name = base.read(name), name.removesuffix(".weight")
        a = tensors.get(f"base_model.model.{module_name}.lora_A.weight")
        found = merged.read(name)
        assert (tuple(found.shape), found.nbytes) == (info.shape, info.nbytes)
        if a is None:
            assert found.dtype == weight.dtype
            assert torch.equal(found, weight)
        else:
            b = tensors[f"base_model.model.{module_name}.lora_B.weight"]
            assert (found.dtype, info.dtype) == (torch.float32, "F32")
            assert torch.equal(found, weight.float() + (b @ a) * scale)
    assert merged.weight_files[-2:] == ("adapter_config.json", "adapter_model.safetensors")
    assert set(merged.weight_files) <= set(merged.hashes())


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"q_proj": 3, "model.layers.1.mlp.up_proj": 5},
        "alpha_pattern": {"layers.0.self_attn.v_proj": 7, "^model.layers.1.self_attn.q_proj": 2},
    },
    "embedding and head": {"target_modules": ["embed_tokens", "q_proj", "lm_head"]},
    "modules that are saved whole": {"modules_to_save": ["lm_head"], "target_modules": ["o_proj"]},
}


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed: pip install peft")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_merge_is_that_of_peft_bit_for_bit(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, PeftModel, get_peft_model

        base = make_checkpoint(tmp_path / "base", dtype=dtype)
        settings = {"r": 4, "lora_alpha": 10, "target_modules": ["q_proj", "v_proj", "up_proj"]} | VARIANTS[name]
        config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn_like(parameter) * 0.3)
        model.save_pretrained(tmp_path / "adapter")
        theirs = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path / "adapter"
        )
        expected = theirs.merge_and_unload().state_dict()
    folder = Path(shutil.copytree(base, tmp_path / "both"))
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(tmp_path / "adapter" / file, folder / file)
    ours = open_checkpoint(str(folder), options=MERGED)
    assert ours.adapter is not None
    assert ours.adapter.factors
    assert set(ours.tensors) == set(expected)
    for tensor in ours.tensors:
        assert torch.equal(ours.read(tensor).float(), expected[tensor]), tensor


def test_the_reference_keeps_the_adapter_beside_the_weights(folder: Path) -> None:
    from helium_edge.parity.reference import load_reference

    ids = torch.arange(4, 40)[None]
    checkpoint = open_checkpoint(str(write_adapter(folder, factors())), options=MERGED)
    model = load_reference(checkpoint)
    base = open_checkpoint(str(make_checkpoint(folder.parent / "base")))
    with torch.no_grad():
        found, alone = model(ids).logits, load_reference(base)(ids).logits
        model.load_state_dict({name: checkpoint.read(name) for name in checkpoint.tensors})
        for part in model.modules():
            part._forward_hooks.clear()
        merged = model(ids).logits
    assert (found - merged).abs().max() < 1e-3 < (found - alone).abs().max()


def test_an_adapter_beside_its_base_is_not_ignored(folder: Path) -> None:
    text = refusal(write_adapter(folder, factors()))
    assert "an adapter lies beside the weights" in text
    assert "--merge-adapter" in text


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_alone_says_how_to_merge_it(tmp_path: Path, file: str) -> None:
    write_adapter(tmp_path, factors())
    if file == "adapter_model.safetensors":
        (tmp_path / "adapter_config.json").unlink()
    for options in (ReadOptions(), MERGED):
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(str(tmp_path), options=options)
        shown = " of x/y" if file == "adapter_config.json" else ""
        assert f"is an adapter{shown}, not a model" in caught.value.message
        assert "merge_and_unload()" in caught.value.hint


def test_there_must_be_an_adapter_to_merge(folder: Path) -> None:
    with pytest.raises(UsageError, match="holds no adapter to merge"):
        open_checkpoint(str(folder), options=MERGED)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"use_dora": True}, "use_dora = True"),
        ({"lora_bias": True}, "lora_bias = True"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"something_new": {"x": 1}}, "something_new"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights = 'loftq'"),
        ({"rank_pattern": {".*q_proj": 2}}, "rank_pattern has '.*q_proj', a regular expression"),
        ({"alpha_pattern": {"(a+)+": 2}}, "alpha_pattern has '(a+)+', a regular expression"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern"),
        ({"r": 0}, "r = 0"),
        ({"r": 5}, "expected [5, "),
        ({"lora_alpha": float("inf")}, "lora_alpha = inf"),
    ],
)
def test_what_cannot_be_merged_exactly_is_refused_by_name(
    folder: Path, settings: dict[str, Any], says: str
) -> None:
    assert says in merge_refusal(write_adapter(folder, factors(), **settings))


def test_an_adapter_of_another_model_is_refused(folder: Path) -> None:
    text = merge_refusal(write_adapter(folder, factors(layers=3)))
    assert "is of another model: the weights here have no model.layers.2." in text


def test_half_an_adapter_is_refused(folder: Path) -> None:
    tensors = factors()
    tensors.pop(next(iter(tensors)))
    assert "has only one of the two factors" in merge_refusal(write_adapter(folder, tensors))


def test_an_adapter_of_a_tied_weight_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", tie_word_embeddings=True)
    tensors = {"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 160),
               "base_model.model.model.embed_tokens.lora_embedding_B": torch.zeros(64, 4)}  # fmt: skip
    assert "ties to the other end" in merge_refusal(write_adapter(folder, tensors))


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\x00" * 20, b"\xef\xbb\xbf{}"])
def test_damaged_files_are_refused_by_name(folder: Path, file: str, content: bytes) -> None:
    write_adapter(folder, factors())
    (folder / file).write_bytes(content)
    with pytest.raises(HeliumEdgeError) as caught:
        open_checkpoint(str(folder), options=MERGED)
    assert caught.value.exit_code == 3
    assert file in caught.value.message


def test_a_pickled_adapter_is_never_opened(folder: Path) -> None:
    write_adapter(folder, factors())
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "never opened" in merge_refusal(folder)
