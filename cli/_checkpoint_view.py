"""How a checkpoint is shown by `inspect`."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from . import _console
from ._format import count, shape, size
from ._views import group_rows

if TYPE_CHECKING:
    from helium_edge.checkpoint import Checkpoint
    from helium_edge.config import ModelConfig


def checkpoint_document(checkpoint: Checkpoint) -> dict[str, Any]:
    """The JSON document of a checkpoint."""
    return {
        "checkpoint": checkpoint.source,
        "revision": checkpoint.revision,
        "config": asdict(checkpoint.config),
        "parameters": _parameters(checkpoint),
        "bytes": _nbytes(checkpoint),
        "tensors": [asdict(tensor) for tensor in checkpoint.tensors.values()],
        "warnings": list(checkpoint.warnings),
    }


def show_checkpoint(checkpoint: Checkpoint) -> None:
    """Show the model and its tensors, those of all layers in one row."""
    config = checkpoint.config
    tensors = list(checkpoint.tensors.values())
    dtypes = sorted({tensor.dtype for tensor in tensors})
    _console.title(f"Checkpoint {checkpoint.source}")
    _console.fields(
        [
            *([("revision", checkpoint.revision)] if checkpoint.revision else []),
            ("architecture", f"{config.architecture} ({config.model_type})"),
            (
                "parameters",
                f"{count(_parameters(checkpoint))}, {size(_nbytes(checkpoint))} in {', '.join(dtypes)}",
            ),
            *_shape_fields(config),
        ]
    )
    _console.line("")
    rows = [(tensor.name, (shape(tensor.shape), tensor.dtype), tensor.nbytes) for tensor in tensors]
    _console.table(["tensors", "shape", "dtype", "size"], group_rows(rows), right=["size"])
    for warning in checkpoint.warnings:
        _console.note(f"warning: {warning}")


def preset_document(name: str, config: ModelConfig) -> dict[str, Any]:
    """The JSON document of a preset; it knows no token ids."""
    shape = {key: value for key, value in asdict(config).items() if "token_id" not in key}
    return {"preset": name, "config": shape, "parameters": config.num_parameters}


def show_preset(name: str, config: ModelConfig) -> None:
    """Show the shape of a released model."""
    _console.title(f"Preset {name}: the shape of kyutai/{name}, without weights")
    parameters = config.num_parameters
    _console.fields(
        [
            ("architecture", f"{config.architecture} ({config.model_type})"),
            ("parameters", f"{count(parameters)}, {size(2 * parameters)} in bfloat16"),
            *_shape_fields(config),
        ]
    )


def _shape_fields(config: ModelConfig) -> list[tuple[str, str]]:
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    return [
        ("layers", f"{config.num_hidden_layers}, hidden {config.hidden_size}, MLP {config.intermediate_size}"),
        ("attention", f"{heads} heads of {config.head_dim}, {kv_heads} key-value heads"),
        ("vocabulary", f"{config.vocab_size:,}, {'tied' if config.tie_word_embeddings else 'untied'} head"),
        ("context", f"{config.max_position_embeddings:,} tokens, RoPE theta {config.rope_theta:g}"),
    ]


def _parameters(checkpoint: Checkpoint) -> int:
    return sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())


def _nbytes(checkpoint: Checkpoint) -> int:
    return sum(tensor.nbytes for tensor in checkpoint.tensors.values())
