"""A classifier or encoder, in plain torch: one pass over a whole text, the yardstick of its exports.

Shapes: T tokens, C hidden_size, L labels.

Source: transformers modeling_layers.py (GenericForSequenceClassification, GenericForTokenClassification).
"""

from __future__ import annotations

import torch
from torch import Tensor

from helium_edge.config import ModelConfig
from helium_edge.model.decoder import DecoderStack, WeightSource, causal_mask
from helium_edge.model.parts import DenseParts, Parts
from helium_edge.model.rope import rope_tables


class TextModel(torch.nn.Module):
    """Hidden states, logits of the text, or logits of each token, as the config's class returns them.

    Args:
        config: The model.
        weights: Source of float32 weights; each is read once, here.
        parts: Makes the modules that carry the weights; float32 from `weights` by default.
    """

    def __init__(self, config: ModelConfig, weights: WeightSource, parts: Parts | None = None) -> None:
        super().__init__()
        self.config = config
        self.stack = DecoderStack(config, parts or DenseParts(config, weights))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Run a whole text.

        Args:
            input_ids: (1, T) int64.

        Returns:
            (1, T, C), (1, L) or (1, T, L) float32.
        """
        config, tokens = self.config, input_ids.shape[1]
        rope = rope_tables(config.rope_theta, config.head_dim, tokens)
        x = self.stack.encode(input_ids[0], rope, causal_mask(config, tokens))
        if not config.task.pools:
            return self.stack.logits(x)[None]
        return self.stack.logits(x[last_token(input_ids, torch.arange(tokens), config.pad_token_id)])


def last_token(input_ids: Tensor, positions: Tensor, pad_token_id: int | None) -> Tensor:
    """Position of the token that stands for the text: the last one that is no padding, 0 where all are.

    The reference takes the first largest position * (id != pad). A position is its own value, so the largest value
    is that position.

    Args:
        input_ids: (1, T) integer.
        positions: 0 to T - 1, (T,).
        pad_token_id: Id of padding; None takes the last token, as the reference does for a single text.

    Returns:
        (1,) of the type of `positions`.
    """
    if pad_token_id is None:
        return positions[-1:]
    return (positions * torch.ne(input_ids, pad_token_id)).amax(dim=-1)
