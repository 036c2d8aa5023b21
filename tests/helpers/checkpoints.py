"""Random checkpoints, written without transformers and without the code under test.

Standard deviation 0.3 and gains away from 1 on purpose: at the usual 0.02 a wrong RoPE or a swapped norm
changes the logits by less than the tolerance of any test.
"""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

Spelling = Literal["4.x", "5.x"]

_NEWLINE, _FIRST_TEXT_PIECE = 14, 260


def tiny_config(**overrides: Any) -> dict[str, Any]:
    """Return the config.json, in 4.x spelling, of a model that runs in milliseconds."""
    config: dict[str, Any] = {
        "architectures": ["HeliumForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": 16,
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 128,
        "mlp_bias": False,
        "model_type": "helium",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 3,
        "rms_norm_eps": 1e-8,
        "rope_theta": 100000.0,
        "tie_word_embeddings": False,
        "vocab_size": 160,
    }
    return config | overrides


def llama_config(**overrides: Any) -> dict[str, Any]:
    """Return the config.json of a model of the `llama` family, as small as `tiny_config`."""
    family = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 20000.0}
    return tiny_config(**(family | overrides))


def family_config(**overrides: Any) -> dict[str, Any]:
    """Return the config.json of the family that `model_type` names, `helium` when it names none."""
    return (llama_config if overrides.get("model_type") == "llama" else tiny_config)(**overrides)


def spell(config: dict[str, Any], spelling: Spelling) -> dict[str, Any]:
    """Return a 4.x config as transformers 4 or 5 would save it."""
    if spelling == "4.x":
        return config | {"torch_dtype": "bfloat16", "transformers_version": "4.57.6"}
    config = dict(config)
    parameters = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"}
    return config | {"dtype": "bfloat16", "rope_parameters": parameters, "transformers_version": "5.23.0"}


def random_weights(
    config: dict[str, Any], *, seed: int = 0, std: float = 0.3, dtype: torch.dtype = torch.bfloat16
) -> dict[str, torch.Tensor]:
    """Return a state dict of the config's class: matrices and biases normal, gains uniform in [0.5, 1.5]."""
    generator = torch.Generator().manual_seed(seed)
    vocab, hidden, inner = config["vocab_size"], config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key_value = config["num_key_value_heads"] * config["head_dim"]
    weights: dict[str, torch.Tensor] = {}

    def normal(name: str, *shape: int) -> None:
        weights[name] = (torch.randn(shape, generator=generator) * std).to(dtype)

    def gain(name: str) -> None:
        weights[name] = (torch.rand(hidden, generator=generator) + 0.5).to(dtype)

    def linear(name: str, rows: int, columns: int, bias: bool) -> None:
        normal(f"{name}.weight", rows, columns)
        if bias:
            normal(f"{name}.bias", rows)

    normal("model.embed_tokens.weight", vocab, hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        gain(f"{prefix}.input_layernorm.weight")
        for kind, rows in (("q", query), ("k", key_value), ("v", key_value)):
            linear(f"{prefix}.self_attn.{kind}_proj", rows, hidden, config["attention_bias"])
        o_bias = config["attention_bias"] and config["model_type"] == "llama"
        linear(f"{prefix}.self_attn.o_proj", hidden, hidden, bias=o_bias)
        gain(f"{prefix}.post_attention_layernorm.weight")
        linear(f"{prefix}.mlp.gate_proj", inner, hidden, config["mlp_bias"])
        linear(f"{prefix}.mlp.up_proj", inner, hidden, config["mlp_bias"])
        linear(f"{prefix}.mlp.down_proj", hidden, inner, config["mlp_bias"])
    gain("model.norm.weight")
    (architecture,) = config["architectures"]
    if architecture.endswith("Classification"):
        linear("score", len(config.get("id2label", (0, 1))), hidden, architecture.endswith("TokenClassification"))
    elif architecture.endswith("ForCausalLM") and not config["tie_word_embeddings"]:
        normal("lm_head.weight", vocab, hidden)
    elif architecture.endswith("Model"):  # as transformers saves it
        weights = {name.removeprefix("model."): weight for name, weight in weights.items()}
    return weights


def write_weights(folder: Path, weights: dict[str, torch.Tensor], *, shards: int = 1) -> None:
    """Write model.safetensors, or as many shards with their index."""
    metadata = {"format": "pt"}
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata=metadata)
        return
    names = list(weights)
    listing: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[len(names) * shard // shards : len(names) * (shard + 1) // shards]
        save_file({name: weights[name] for name in part}, folder / file, metadata=metadata)
        listing |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": listing}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Write the tokenizer of helium-tiny, cut or filled to `vocab_size` pieces.

    A vocabulary too small for the 256 byte pieces keeps those up to the newline and has no byte fallback, so
    that the rest are letters and text has ids that mean something.
    """
    origin = importlib.resources.files("helium_edge.data") / "helium-tiny"
    tokenizer = json.loads((origin / "tokenizer.json").read_text(encoding="utf-8"))
    pieces: list[list[Any]] = tokenizer["model"]["vocab"]
    if vocab_size < _FIRST_TEXT_PIECE + 40:
        pieces = pieces[: _NEWLINE + 1] + pieces[_FIRST_TEXT_PIECE:]
        tokenizer["model"]["byte_fallback"] = False
    pieces = pieces[:vocab_size]
    pieces += [[f"<filler-{index}>", -100.0] for index in range(vocab_size - len(pieces))]
    tokenizer["model"]["vocab"] = pieces
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] < vocab_size]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_bytes((origin / name).read_bytes())


def make_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    std: float = 0.3,
    dtype: torch.dtype = torch.bfloat16,
    shards: int = 1,
    spelling: Spelling = "4.x",
    tokenizer: bool = True,
    **config_overrides: Any,
) -> Path:
    """Write a checkpoint folder; the same arguments give the same bytes. Returns `folder`."""
    config = family_config(**config_overrides)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(spell(config, spelling), indent=2, sort_keys=True)
    (folder / "config.json").write_text(text, encoding="utf-8")
    write_weights(folder, random_weights(config, seed=seed, std=std, dtype=dtype), shards=shards)
    if tokenizer:
        write_tokenizer(folder, config["vocab_size"])
    return folder
