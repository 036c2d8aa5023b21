"""The inputs of a decoder layer's matrices: four of them, and the head's; who reads and who writes each.

Shapes: C hidden_size, I intermediate_size, H / Hkv query / key-value heads, D head_dim.
"""

from __future__ import annotations

from typing import Literal

from helium_edge.config import ModelConfig
from helium_edge.model.weights import FINAL_NORM, head_name, layer_name
from helium_edge.tasks import LM_HEAD

InputName = Literal["attention", "mixed", "mlp", "gated"]
INPUTS: tuple[InputName, ...] = ("attention", "mixed", "mlp", "gated")
"""What q, k and v read (C), what o reads (H * D), what gate and up read (C), what down reads (I); in order."""

_READERS = {
    "attention": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mixed": ("self_attn.o_proj",),
    "mlp": ("mlp.gate_proj", "mlp.up_proj"),
    "gated": ("mlp.down_proj",),
}
_WRITERS = {
    "attention": "input_layernorm",
    "mixed": "self_attn.v_proj",
    "mlp": "post_attention_layernorm",
    "gated": "mlp.up_proj",
}


def readers(layer: int, name: InputName) -> list[str]:
    """Weights that read an input, in the order in which they are stacked."""
    return [layer_name(layer, f"{part}.weight") for part in _READERS[name]]


def writer(layer: int, name: InputName) -> str:
    """The tensor whose rows, or values, scale the channels of an input: a norm gain, v or up."""
    return layer_name(layer, f"{_WRITERS[name]}.weight")


def head_weight(config: ModelConfig) -> str | None:
    """The head, where it has numbers of its own: not one that is tied to the embedding, or not there at all."""
    name = head_name(config)
    return None if name == LM_HEAD and config.tie_word_embeddings else name


HEAD_WRITER = FINAL_NORM
"""The gain that scales what the head reads."""
