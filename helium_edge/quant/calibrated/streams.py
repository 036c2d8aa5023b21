"""Hidden states of all texts, and a decoder layer that is run on them part by part.

Texts are conversations of their own, laid end to end; only attention looks at where one begins. Each is run by one
thread alone, so that the number of threads changes nothing.

Shapes: T tokens of all texts, C hidden_size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from helium_edge.config import ModelConfig
from helium_edge.model.decoder import DecoderLayer, causal_mask
from helium_edge.model.parts import Linear
from helium_edge.model.rope import rope_tables
from helium_edge.quant.calibrated.inputs import INPUTS, InputName
from helium_edge.quant.parallel import map_pieces

WRITE_BACK: tuple[InputName, ...] = ("mixed", "gated")
"""Inputs whose readers, o and down, add to the residual stream."""


class Texts:
    """Token ids of all texts.

    Args:
        config: The model.
        texts: Each a conversation that starts as one does.

    Attributes:
        ids: (T,) int64.
    """

    def __init__(self, config: ModelConfig, texts: Sequence[Sequence[int]]) -> None:
        self._config = config
        self.ids = torch.tensor([token for text in texts for token in text])
        ends = torch.tensor([len(text) for text in texts]).cumsum(0).tolist()
        self._spans = [slice(end - len(text), end) for end, text in zip(ends, texts, strict=True)]
        longest = max(len(text) for text in texts)
        self._tables = rope_tables(config.rope_theta, config.head_dim, longest)
        self._mask = causal_mask(config, longest)
        self._longest = longest

    def map(self, part: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
        """Run a part of a layer that knows no positions: (T, ...) to (T, ...)."""
        pieces = map_pieces(lambda span: part(states[span]), self._spans)
        return torch.cat(pieces)

    def mix(self, layer: DecoderLayer, normed: Tensor) -> Tensor:
        """Attention over each text: (T, C) after the first norm to (T, H * D), what `o` reads."""

        def work(span: slice) -> Tensor:
            count = span.stop - span.start
            rope = self._tables[0][:count], self._tables[1][:count]
            mask = self._mask if count == self._longest else causal_mask(self._config, count)
            return layer.mix(normed[span], rope, (None, mask), None)[0]

        return torch.cat(map_pieces(work, self._spans))


class Stream:
    """The hidden states of all texts on their way through one model.

    Args:
        texts: The texts.
        states: (T, C) float32, their embeddings.

    Attributes:
        states: (T, C), the residual stream as far as it has been computed.
    """

    def __init__(self, texts: Texts, states: Tensor) -> None:
        self._texts = texts
        self.states = states

    def input_of(self, layer: DecoderLayer, name: InputName, before: Tensor | None) -> Tensor:
        """What the readers of an input read, (T, K).

        Args:
            layer: Its modules before that input are in place.
            name: The input.
            before: The input before it, where it is computed from that: `mixed` from `attention`, `gated` from
                `mlp`.
        """
        if name == "attention":
            return self._texts.map(layer.norm1, self.states)
        if name == "mlp":
            return self._texts.map(layer.norm2, self.states)
        assert before is not None
        return self._texts.mix(layer, before) if name == "mixed" else self._texts.map(layer.gated, before)

    def add(self, projection: torch.nn.Module, inputs: Tensor) -> None:
        """Add what a projection, `o` or `down`, makes of its inputs (T, K)."""
        self.states = self.states + self._texts.map(projection, inputs)

    def run(self, layer: DecoderLayer) -> None:
        """Take the states through a whole layer."""
        inputs: Tensor | None = None
        for name in INPUTS:
            inputs = self.input_of(layer, name, inputs)
            if name in WRITE_BACK:
                self.add(projection(layer, name), inputs)

    def normed(self, norm: torch.nn.Module) -> Tensor:
        """The states after the final norm, (T, C)."""
        return self._texts.map(norm, self.states)


def projection(layer: DecoderLayer, name: InputName) -> Linear:
    """The module that holds the readers of an input."""
    module = {"attention": layer.qkv, "mixed": layer.o, "mlp": layer.gate_up, "gated": layer.down}[name]
    assert isinstance(module, Linear)
    return module
