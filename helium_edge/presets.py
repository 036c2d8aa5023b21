"""Shapes of the released models by name, for plans and benchmarks without a download. No weights, no token ids.

A name here is looked up only by what says that it works without weights; an export always reads a config.json.

Sources: config.json of kyutai/helium-1-preview-2b; for kyutai/helium-1-2b the sizes that third-party ports agree
on. Whether the latter's head is tied was not established: it is taken as untied, which is the larger.
"""

from __future__ import annotations

from typing import Any

from helium_edge.config import ModelConfig

PRESETS: dict[str, dict[str, Any]] = {
    "helium-1-preview-2b": {
        "model_type": "helium",
        "architectures": ["HeliumForCausalLM"],
        "hidden_size": 2560,
        "intermediate_size": 7040,
        "num_hidden_layers": 24,
        "num_attention_heads": 20,
        "num_key_value_heads": 20,
        "head_dim": 128,
        "vocab_size": 48000,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-8,
        "rope_theta": 100000.0,
        "tie_word_embeddings": False,
    },
    "helium-1-2b": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 64000,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-8,
        "rope_theta": 20000.0,
        "tie_word_embeddings": False,
    },
}
"""What config.json would say of the shape, by the repository's name under `kyutai/`."""


def preset(name: str) -> ModelConfig | None:
    """The shape of a released model; None where no preset has that name."""
    return ModelConfig.from_dict(PRESETS[name], where=f"preset {name}") if name in PRESETS else None
