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


def checkpoint_document(checkpoint: Checkpoint) -> dict[str, Any]:
    """The JSON document of a checkpoint."""
    return {
        "checkpoint": checkpoint.source,
        "revision": checkpoint.revision,
        "config": asdict(checkpoint.config),
        "parameters": _parameters(checkpoint),
        "bytes": _nbytes(checkpoint),
        "tensors": [asdict(tensor) for tensor in checkpoint.tensors.values()],
    }


def show_checkpoint(checkpoint: Checkpoint) -> None:
    """Show the model and its tensors, those of all layers in one row."""
    config = checkpoint.config
    tensors = list(checkpoint.tensors.values())
    dtypes = sorted({tensor.dtype for tensor in tensors})
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    _console.title(f"Checkpoint {checkpoint.source}")
    _console.fields(
        [
            *([("revision", checkpoint.revision)] if checkpoint.revision else []),
            ("architecture", f"{config.architecture} ({config.model_type})"),
            (
                "parameters",
                f"{count(_parameters(checkpoint))}, {size(_nbytes(checkpoint))} in {', '.join(dtypes)}",
            ),
            ("layers", f"{config.num_hidden_layers}, hidden {config.hidden_size}, MLP {config.intermediate_size}"),
            ("attention", f"{heads} heads of {config.head_dim}, {kv_heads} key-value heads"),
            ("vocabulary", f"{config.vocab_size:,}, {'tied' if config.tie_word_embeddings else 'untied'} head"),
            ("context", f"{config.max_position_embeddings:,} tokens, RoPE theta {config.rope_theta:g}"),
        ]
    )
    _console.line("")
    rows = [(tensor.name, (shape(tensor.shape), tensor.dtype), tensor.nbytes) for tensor in tensors]
    _console.table(["tensors", "shape", "dtype", "size"], group_rows(rows), right=["size"])


def _parameters(checkpoint: Checkpoint) -> int:
    return sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())


def _nbytes(checkpoint: Checkpoint) -> int:
    return sum(tensor.nbytes for tensor in checkpoint.tensors.values())
