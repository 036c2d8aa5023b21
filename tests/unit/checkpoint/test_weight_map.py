from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from helium_edge.checkpoint import open_checkpoint
from helium_edge.checkpoint.weight_map import expected_tensors, first_few
from helium_edge.config import ModelConfig
from helium_edge.parity.spelling import folder_for_transformers
from tests.helpers.checkpoints import family_config, make_checkpoint, random_weights, tiny_config, write_weights
from tests.unit.checkpoint.support import refusal

Weights = dict[str, torch.Tensor]


def change(folder: Path, weights: Weights, *, shards: int = 1) -> Path:
    write_weights(folder, weights, shards=shards)
    return folder


@pytest.fixture
def weights() -> Weights:
    return random_weights(tiny_config())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model")


VARIANTS: list[dict[str, Any]] = [
    {},
    {"attention_bias": True},
    {"mlp_bias": True},
    {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 1},
    {"num_hidden_layers": 1, "head_dim": 32, "num_attention_heads": 2, "intermediate_size": 160},
    {"model_type": "llama"},
    {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
]


@pytest.mark.parametrize("overrides", VARIANTS, ids=str)
@pytest.mark.parametrize("shards", [1, 3])
def test_every_variant_is_read_back(tmp_path: Path, overrides: dict[str, Any], shards: int) -> None:
    data = family_config(**overrides)
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path, shards=shards, **overrides)))
    expected = random_weights(data)
    assert list(checkpoint.tensors) == list(expected_tensors(checkpoint.config))
    assert set(checkpoint.tensors) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.read(name), tensor), name


@pytest.mark.parametrize("overrides", VARIANTS, ids=str)
def test_expected_names_and_shapes_are_those_of_transformers(overrides: dict[str, Any]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    data = family_config(**overrides)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**data))
    theirs = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    if data["tie_word_embeddings"]:
        del theirs["lm_head.weight"]
    ours = expected_tensors(ModelConfig.from_dict(data))
    assert {name: tensor.shape for name, tensor in ours.items()} == theirs
    assert all(len(tensor.keys) == len(tensor.shape) for tensor in ours.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_stored_types_are_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path, dtype=dtype)))
    for name, info in checkpoint.tensors.items():
        tensor = checkpoint.read(name)
        assert tensor.dtype is dtype
        assert (info.name, info.file, info.nbytes) == (name, "model.safetensors", tensor.nbytes)
        assert info.dtype == {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}[dtype]


def test_types_may_be_mixed(folder: Path, weights: Weights) -> None:
    weights["model.norm.weight"] = weights["model.norm.weight"].float()
    checkpoint = open_checkpoint(str(change(folder, weights)))
    assert checkpoint.read("model.norm.weight").dtype is torch.float32
    assert checkpoint.read("lm_head.weight").dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "shown"),
    [
        (torch.float64, "F64"), (torch.int8, "I8"), (torch.uint8, "U8"), (torch.bool, "BOOL"),
        (torch.int64, "I64"), (torch.float8_e4m3fn, "F8_E4M3"),
    ],
)  # fmt: skip
def test_other_types_are_refused(folder: Path, weights: Weights, dtype: torch.dtype, shown: str) -> None:
    weights["model.norm.weight"] = weights["model.norm.weight"].to(dtype)
    text = refusal(change(folder, weights))
    assert text.startswith(f"model.safetensors: stored type not supported: model.norm.weight is {shown};")
    assert "allowed: F32, F16, BF16" in text


@pytest.mark.parametrize("shards", [1, 2])
def test_a_missing_tensor_is_named(folder: Path, weights: Weights, shards: int) -> None:
    del weights["model.layers.1.mlp.up_proj.weight"]
    (folder / "model.safetensors").unlink()
    text = refusal(change(folder, weights, shards=shards))
    where = "model.safetensors" if shards == 1 else "model.safetensors.index.json"
    assert text.startswith(f"{where}: 1 tensor is missing: model.layers.1.mlp.up_proj.weight")


def test_many_missing_tensors_are_counted(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(tiny_config(num_hidden_layers=4)))
    text = refusal(folder)
    assert "18 tensors are missing: model.layers.2.input_layernorm.weight, " in text
    assert " and 15 more" in text
    assert "config.json says num_hidden_layers = 4" in text


def test_a_missing_head_points_to_tying(folder: Path, weights: Weights) -> None:
    del weights["lm_head.weight"]
    text = refusal(change(folder, weights))
    assert "1 tensor is missing: lm_head.weight" in text
    assert "tie_word_embeddings = true" in text


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("attention_bias", "model.layers.0.self_attn.q_proj.bias"),
        ("mlp_bias", "model.layers.0.mlp.gate_proj.bias"),
    ],
)
def test_missing_biases_point_to_their_key(folder: Path, key: str, name: str) -> None:
    (folder / "config.json").write_text(json.dumps(tiny_config(**{key: True})))
    text = refusal(folder)
    assert f"6 tensors are missing: {name}" in text
    assert f"config.json says {key} = true" in text


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model.layers.0.self_attn.q_proj.bias", "config.json says attention_bias = false"),
        ("model.layers.1.mlp.down_proj.bias", "config.json says mlp_bias = false"),
        (
            "model.layers.0.self_attn.o_proj.bias",
            "o_proj has no bias in this architecture, whatever attention_bias says",
        ),
        ("model.layers.2.mlp.up_proj.weight", "config.json says num_hidden_layers = 2"),
        ("model.rotary_emb.inv_freq_2", "without it this would be another model"),
        ("model.layers.00.mlp.up_proj.weight", "without it this would be another model"),
        ("model.layers.0.self_attn.q_norm.weight", "without it this would be another model"),
        ("lm_head.bias", "lm_head has no bias in HeliumForCausalLM: the weights are of another class"),
    ],
)
def test_an_extra_tensor_is_named(folder: Path, weights: Weights, name: str, reason: str) -> None:
    weights[name] = torch.zeros(64)
    text = refusal(change(folder, weights))
    assert text.startswith(f"model.safetensors: unexpected tensor: {name} (")
    assert text.endswith(f"{reason})")


@pytest.mark.parametrize("name", ["x\ny\0", "\x1b[31m", "é" * 10_000, "🙂", "a" * 10_000])
def test_names_from_a_file_are_harmless_in_messages(folder: Path, weights: Weights, name: str) -> None:
    weights[name] = torch.zeros(4)
    (ignored,) = open_checkpoint(str(change(folder, weights))).warnings
    weights[f"model.{name}"] = torch.zeros(4)
    for text in (ignored, refusal(change(folder, weights))):
        assert text.isprintable()
        assert len(text) < 300


def test_an_extra_tensor_names_its_shard(tmp_path: Path, weights: Weights) -> None:
    folder = make_checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    weights["model.zzz"] = torch.zeros(4)
    assert refusal(change(folder, weights, shards=3)).startswith("model-00003-of-00003.safetensors: unexpected")


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.rotary_emb.inv_freq",
        "model.rotary_emb.original_inv_freq",
    ],
)
@pytest.mark.parametrize("shards", [1, 2])
def test_saved_rope_buffers_are_ignored_and_named(
    tmp_path: Path, weights: Weights, name: str, shards: int
) -> None:
    folder = make_checkpoint(tmp_path, shards=shards)
    weights[name] = torch.zeros(8, dtype=torch.float64)
    checkpoint = open_checkpoint(str(change(folder, weights, shards=shards)))
    assert name not in checkpoint.tensors
    (line,) = checkpoint.warnings
    assert name in line


def test_a_wrong_shape_is_named_with_the_key_it_follows_from(folder: Path, weights: Weights) -> None:
    weights["model.layers.0.self_attn.k_proj.weight"] = torch.zeros(64, 64)
    text = refusal(change(folder, weights))
    assert text.startswith(
        "model.safetensors: wrong shape: model.layers.0.self_attn.k_proj.weight is [64, 64], "
        "expected [32, 64] (num_key_value_heads * head_dim x hidden_size)"
    )


@pytest.mark.parametrize("shape", [(64, 96, 1), (96, 64), (64 * 96,), (64, 95), (0, 96), ()])
def test_other_layouts_of_the_same_weight_are_refused(
    folder: Path, weights: Weights, shape: tuple[int, ...]
) -> None:
    weights["model.layers.1.mlp.down_proj.weight"] = torch.zeros(shape)
    text = refusal(change(folder, weights))
    assert f"down_proj.weight is {list(shape)}, expected [64, 96] (hidden_size x intermediate_size)" in text


def test_several_wrong_shapes_are_counted(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(tiny_config(intermediate_size=128)))
    text = refusal(folder)
    assert "model.layers.0.mlp.gate_proj.weight is [96, 64], expected [128, 64]" in text
    assert " and 3 more" in text


def test_a_vocabulary_of_another_size_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(tiny_config(vocab_size=161)))
    assert "is [160, 64], expected [161, 64] (vocab_size x hidden_size)" in refusal(folder)


def test_the_names_of_another_class_are_told(folder: Path, weights: Weights) -> None:
    renamed = {
        name.replace("self_attn", "attention").replace("embed_tokens", "wte"): t for name, t in weights.items()
    }
    text = refusal(change(folder, renamed))
    assert "9 tensors are missing" in text
    assert "found model." in text
    assert "not the names of HeliumForCausalLM in transformers" in text


def test_a_wrapper_that_is_not_known_is_named(folder: Path, weights: Weights) -> None:
    text = refusal(change(folder, {f"student.{name}": tensor for name, tensor in weights.items()}))
    assert "21 tensors are missing" in text
    assert "every name begins with 'student.'" in text


def test_a_part_that_is_missing_from_a_layer_blames_no_key(folder: Path, weights: Weights) -> None:
    del weights["model.layers.1.mlp.up_proj.weight"]
    text = refusal(change(folder, weights))
    assert "num_hidden_layers" not in text
    assert "incomplete" in text


def test_a_tied_head_may_be_stored_when_it_is_the_embedding(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, tie_word_embeddings=True)
    weights = random_weights(tiny_config(tie_word_embeddings=True))
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    checkpoint = open_checkpoint(str(change(folder, weights)))
    assert torch.equal(checkpoint.read("lm_head.weight"), weights["model.embed_tokens.weight"])


@pytest.mark.parametrize("fault", ["value", "dtype", "shape"])
def test_a_tied_head_that_differs_is_refused(tmp_path: Path, fault: str) -> None:
    folder = make_checkpoint(tmp_path, tie_word_embeddings=True)
    weights = random_weights(tiny_config(tie_word_embeddings=True))
    head = weights["model.embed_tokens.weight"].clone()
    if fault == "value":
        head[-1, -1] += 1
    weights["lm_head.weight"] = {"value": head, "dtype": head.view(torch.float16), "shape": head[1:].clone()}[
        fault
    ]
    text = refusal(change(folder, weights))
    assert text.startswith("model.safetensors: ")
    assert ("expected [160, 64]" if fault == "shape" else "differs from model.embed_tokens.weight") in text


def test_a_config_of_millions_of_layers_costs_nothing(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(tiny_config(num_hidden_layers=1 << 24)))
    tracemalloc.start()
    try:
        text = refusal(folder)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert "num_hidden_layers = 16777216, the weights are 21 tensors" in text


def test_first_few() -> None:
    assert [first_few(list("abcde")[:n]) for n in (1, 3, 4)] == ["a", "a, b, c", "a, b, c and 1 more"]


@pytest.mark.parametrize("spelling", ["4.x", "5.x"])
@pytest.mark.parametrize("overrides", [{"rope_theta": 500.0}, VARIANTS[3]], ids=["theta", "biases, tied"])
def test_transformers_reads_the_same_checkpoint(tmp_path: Path, spelling: Any, overrides: dict[str, Any]) -> None:
    import transformers
    from transformers import AutoModelForCausalLM, HeliumForCausalLM

    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path, spelling=spelling, shards=2, **overrides)))
    with folder_for_transformers(checkpoint, transformers.__version__) as folder:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    assert isinstance(model, HeliumForCausalLM)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    exponent = -2 / checkpoint.config.head_dim
    assert model.model.rotary_emb.inv_freq[1].item() == pytest.approx(checkpoint.config.rope_theta**exponent)
    theirs = model.state_dict()
    assert set(theirs) == set(checkpoint.tensors) | {"lm_head.weight"}
    for name in checkpoint.tensors:
        assert torch.equal(theirs[name], checkpoint.read(name)), name
