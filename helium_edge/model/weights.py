"""Which weights a model has, and how they are read: in the order that graphs use, and finite.

The only place that knows of tied heads and of the RoPE row order; everything above sees one list of names.
"""

from __future__ import annotations

import math

import torch

from helium_edge.checkpoint import Checkpoint
from helium_edge.config import ModelConfig
from helium_edge.errors import CheckpointError
from helium_edge.model.rope import reorder_interleaved_rows
from helium_edge.tasks import LM_HEAD

EMBEDDING = "model.embed_tokens.weight"
HEAD = LM_HEAD
FINAL_NORM = "model.norm.weight"


def layer_name(layer: int, part: str) -> str:
    """Full name of a tensor of one decoder layer, as `mlp.up_proj.weight`."""
    return f"model.layers.{layer}.{part}"


def head_name(config: ModelConfig) -> str | None:
    """Name of the weight that turns hidden states into logits; None where hidden states are what is returned."""
    return config.task.weight


def matrix_names(config: ModelConfig) -> list[str]:
    """All two-dimensional weights, in the order of the forward pass; the head is listed also when tied."""
    head = head_name(config)
    parts = [f"self_attn.{kind}_proj.weight" for kind in "qkvo"]
    parts += [f"mlp.{kind}_proj.weight" for kind in ("gate", "up", "down")]
    layers = [layer_name(layer, part) for layer in range(config.num_hidden_layers) for part in parts]
    return [EMBEDDING, *layers, *([head] if head else [])]


def vector_names(config: ModelConfig) -> list[str]:
    """All norm gains and biases; they are never quantized."""
    parts = ["input_layernorm.weight"]
    parts += [f"self_attn.{kind}_proj.bias" for kind in "qkv"] if config.attention_bias else []
    parts += ["self_attn.o_proj.bias"] if config.o_bias else []
    parts += ["post_attention_layernorm.weight"]
    parts += [f"mlp.{kind}_proj.bias" for kind in ("gate", "up", "down")] if config.mlp_bias else []
    layers = [layer_name(layer, part) for layer in range(config.num_hidden_layers) for part in parts]
    return [*layers, FINAL_NORM, *(["score.bias"] if config.score_bias else [])]


def read_weight(checkpoint: Checkpoint, name: str, *, finite: bool = True) -> torch.Tensor:
    """Read one tensor in its stored dtype, laid out for half-split RoPE; a tied head reads the embedding.

    Args:
        checkpoint: Where it is.
        name: The tensor.
        finite: Look for NaN and infinity, which takes a pass over all of it.

    Raises:
        CheckpointError: The tensor holds NaN or infinity.
    """
    config = checkpoint.config
    stored = EMBEDDING if name == HEAD and config.tie_word_embeddings else name
    tensor = _read_finite(checkpoint, stored) if finite else checkpoint.read(stored)
    if config.rope_interleaved and (".q_proj." in name or ".k_proj." in name):
        tensor = reorder_interleaved_rows(tensor, config.head_dim)
    return tensor


def _read_finite(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    tensor = checkpoint.read(name)
    # Twenty times faster than isfinite; NaN is handed on by both.
    low, high = torch.aminmax(tensor)
    if not (math.isfinite(low.item()) and math.isfinite(high.item())):
        bad = int((~torch.isfinite(tensor)).sum())
        raise CheckpointError(
            f"{checkpoint.tensors[name].file}: tensor {name} holds {bad} NaN or infinite values of "
            f"{tensor.numel()}; only finite weights can be exported",
            hint="the checkpoint is damaged or was saved from a diverged run",
        )
    return tensor
