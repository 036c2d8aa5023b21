"""Small models with large channels, their texts, and what a calibration of them keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.model.decoder import causal_mask
from helium_edge.model.rope import rope_tables
from helium_edge.model.text_model import TextModel
from helium_edge.model.weights import read_weight
from helium_edge.quant import QuantizedWeight
from helium_edge.quant.calibrated import CalibratedStore
from helium_edge.quant.calibrated.walk import Results
from helium_edge.recipe import Calibration, Quantization, Rule, Scheme
from tests.helpers.checkpoints import make_checkpoint, random_weights, tiny_config, write_weights
from tests.helpers.exports import random_tokens

MODEL: dict[str, Any] = {"num_hidden_layers": 2, "vocab_size": 200, "rms_norm_eps": 1e-6}
STD = 0.12
BIASES: dict[str, Any] = {"model_type": "llama", "attention_bias": True, "mlp_bias": True}
HOT = (3, 40)
"""Channels that are 30 times as large after every norm, and in what up writes."""


def model(folder: Path, *, hot: float = 30.0, **changes: Any) -> Checkpoint:
    """A random checkpoint with a few channels that are `hot` times as large; the function is the same for any."""
    config = tiny_config(**MODEL | changes)
    made = make_checkpoint(folder, std=STD, **MODEL | changes)
    tensors = {name: tensor.float() for name, tensor in random_weights(config, std=STD).items()}
    hot_channels = list(HOT)
    for layer in range(config["num_hidden_layers"]):
        prefix = (
            f"layers.{layer}." if f"layers.{layer}.input_layernorm.weight" in tensors else f"model.layers.{layer}."
        )
        for norm, readers in (
            ("input_layernorm", [f"self_attn.{kind}_proj" for kind in "qkv"]),
            ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"]),
        ):
            tensors[f"{prefix}{norm}.weight"][hot_channels] *= hot
            for reader in readers:
                tensors[f"{prefix}{reader}.weight"][:, hot_channels] /= hot
        tensors[f"{prefix}mlp.up_proj.weight"][hot_channels] *= hot
        if f"{prefix}mlp.up_proj.bias" in tensors:
            tensors[f"{prefix}mlp.up_proj.bias"][hot_channels] *= hot
        tensors[f"{prefix}mlp.down_proj.weight"][:, hot_channels] /= hot
    write_weights(made, tensors)
    return open_checkpoint(str(made))


def texts(checkpoint: Checkpoint, count: int = 6, length: int = 48, seed: int = 0) -> list[list[int]]:
    vocab = checkpoint.config.vocab_size
    return [random_tokens(length - number % 3, vocab, seed=seed + number) for number in range(count)]


def rules(scheme: Scheme, **others: Scheme | None) -> tuple[Rule, ...]:
    """int8 ends and `scheme` between; `v_proj=None` keeps a kind in float32."""
    ends = Rule(match=r"model\.embed_tokens\.weight|(lm_head|score)\.weight", scheme=Scheme(bits=8))
    special = [
        Rule(match=rf".*{kind}\.weight", scheme=other, skip=other is None) for kind, other in others.items()
    ]
    return (*special, ends, Rule(match=r".*_proj\.weight", scheme=scheme))


def quantization(scheme: Scheme, options: Calibration | None = None, **others: Scheme | None) -> Quantization:
    return Quantization(method="calibrated", calibration=options, rules=rules(scheme, **others))


def open_store(
    checkpoint: Checkpoint, folder: Path, wanted: Quantization, given: Sequence[Sequence[int]] | None = None
) -> CalibratedStore:
    return CalibratedStore(checkpoint, wanted, folder, texts(checkpoint) if given is None else given)


class Original:
    """The checkpoint's own weights, for the torch decoder and the walk."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def read(self, name: str) -> Tensor:
        return read_weight(self._checkpoint, name)

    def dense(self, name: str) -> Tensor:
        return self.read(name).float()

    vector = dense


def outputs(checkpoint: Checkpoint, weights: Any, *texts: Sequence[int]) -> Tensor:
    """What the head returns at every position of the texts, (T, V), or the final norm where there is none."""
    config, model = checkpoint.config, TextModel(checkpoint.config, weights)
    rows = []
    with torch.inference_mode():
        for ids in texts:
            rope = rope_tables(config.rope_theta, config.head_dim, len(ids))
            states = model.stack.encode(torch.tensor(ids), rope, causal_mask(config, len(ids)))
            rows.append(model.stack.logits(states))
    return torch.cat(rows)


class Kept(Results):
    """Results in memory."""

    def __init__(self) -> None:
        self.found: dict[str, QuantizedWeight] = {}
        self.originals: dict[str, Tensor] = {}
        self.folds: dict[int | None, Mapping[str, Tensor]] = {}

    def factors(self, layer: int | None) -> Mapping[str, Tensor] | None:
        return None

    def put_factors(self, layer: int | None, factors: Mapping[str, Tensor]) -> None:
        self.folds[layer] = factors

    def weights(self, names: Sequence[str]) -> list[QuantizedWeight] | None:
        return None

    def put_weights(
        self, names: Sequence[str], originals: Sequence[Tensor], found: Sequence[QuantizedWeight]
    ) -> None:
        self.found |= dict(zip(names, found, strict=True))
        self.originals |= dict(zip(names, originals, strict=True))
