"""Calibration of an int8 KV cache: the scale of every channel, from text, and how much other text exceeds it.

The text runs through our torch decoder with the quantized weights, a layer at a time: one layer's weights are in
memory, and the hidden states of the text.

Keys are cached after RoPE, which turns the pair (d, d + D/2) by an angle that depends on the position. The length
of a pair does not, so both of its channels get the scale of the largest length: what was seen at one position
fits at every other. Values get the largest magnitude of their channel.

Shapes: T tokens of a text, Hkv key-value heads, D head_dim, C hidden_size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from helium_edge.model.decoder import ACTIVATIONS, DecoderLayer, causal_mask
from helium_edge.model.kv_cache import HIGHEST, SIDES, KvScales, Side, exact_codes
from helium_edge.model.parts import DenseParts
from helium_edge.model.rope import rope_tables
from helium_edge.model.weights import EMBEDDING
from helium_edge.progress import SILENT, Progress
from helium_edge.quant.affine import QuantizedWeight, dequantize
from helium_edge.quant.store import QuantizedStore

HEADROOM = 1.25
"""Scales cover this much more than the text needs: other text exceeds the calibration's maxima a little."""

CLIPPED_LIMIT = 1e-4
"""Share of values that may be clipped on text that was not calibrated with."""

_SMALLEST_SHARE, _SMALLEST = 1e-3, 1e-6
"""Least magnitude that a scale covers, as a share of the largest channel's, and at all."""


@dataclass(frozen=True)
class WorstChannel:
    """The channel that is clipped most.

    Attributes:
        layer: Its layer.
        side: Keys or values.
        head: Key-value head.
        channel: Dimension of the head.
        share: Share of its values that are clipped.
    """

    layer: int
    side: Side
    head: int
    channel: int
    share: float

    def __str__(self) -> str:
        where = f"layer {self.layer}, {self.side} head {self.head}, channel {self.channel}"
        return f"{where}: {self.share:.2%} of its values"


@dataclass(frozen=True)
class Saturation:
    """Values that an int8 cache clips.

    Attributes:
        tokens: Tokens that were looked at.
        share: Clipped values over all values.
        worst: The channel that is clipped most; None where none is.
    """

    tokens: int
    share: float
    worst: WorstChannel | None

    @classmethod
    def from_counts(cls, counts: Sequence[Tensor], tokens: int) -> Saturation:
        """Sum up.

        Args:
            counts: Clipped values by channel, of the key and value buffer of each layer in turn, each (Hkv, D).
            tokens: Rows that were counted.
        """
        stacked = torch.stack(list(counts))
        total = int(stacked.sum())
        if not total:
            return cls(tokens, 0.0, None)
        buffer, head, channel = (int(index) for index in (stacked == stacked.max()).nonzero()[0])
        worst = WorstChannel(buffer // 2, SIDES[buffer % 2], head, channel, int(stacked.max()) / tokens)
        return cls(tokens, total / (tokens * stacked.numel()), worst)


@dataclass(frozen=True)
class KvCalibration:
    """What a calibration gave.

    Attributes:
        scales: One a channel.
        tokens: Tokens of text that they come from.
        held_out: What other text exceeds.
    """

    scales: KvScales
    tokens: int
    held_out: Saturation


def clipped(rows: Tensor, scale: Tensor) -> Tensor:
    """How many values of each channel fall outside the codes.

    Args:
        rows: (Hkv, T, D), not rounded.
        scale: (Hkv, 1, D).

    Returns:
        (Hkv, D) int64.
    """
    codes = exact_codes(rows, scale).round()
    return ((codes > HIGHEST) | (codes < -HIGHEST - 1)).sum(dim=1)


def calibrate(
    store: QuantizedStore,
    texts: Sequence[Sequence[int]],
    held_out: Sequence[Sequence[int]],
    progress: Progress = SILENT,
) -> KvCalibration:
    """Calibrate the scales of an int8 KV cache.

    Args:
        store: The weights that are exported.
        texts: Token ids to calibrate on, each a conversation of its own that starts as one does.
        held_out: Others, to see what the scales clip.
        progress: Advanced by each layer.

    Raises:
        HeliumEdgeError: Whatever the store raises.
    """
    config, parts = store.config, DenseParts(store.config, store)
    longest = max(len(text) for text in (*texts, *held_out))
    tables = rope_tables(config.rope_theta, config.head_dim, longest)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    counts: list[Tensor] = []
    with torch.inference_mode():
        states = _embed(store, [*texts, *held_out])
        for index in range(config.num_hidden_layers):
            layer = DecoderLayer(config, parts, index, ACTIVATIONS[config.hidden_act])
            rows = [_run(layer, states, number, tables) for number in range(len(states))]
            seen, others = rows[: len(texts)], rows[len(texts) :]
            keys.append(_scale(torch.stack([_pair_lengths(key).amax(dim=1) for key, _ in seen]).amax(dim=0)))
            values.append(_scale(torch.stack([value.abs().amax(dim=1) for _, value in seen]).amax(dim=0)))
            for side, scale in enumerate((keys[-1][:, None], values[-1][:, None])):
                none = torch.zeros_like(scale[:, 0], dtype=torch.int64)
                counts.append(sum((clipped(pair[side], scale) for pair in others), none))
            progress.advance(note=f"layer {index}")
    tokens = sum(map(len, texts)), sum(map(len, held_out))
    return KvCalibration(
        KvScales(tuple(keys), tuple(values)), tokens[0], Saturation.from_counts(counts, max(1, tokens[1]))
    )


def _run(
    layer: DecoderLayer, states: list[Tensor], number: int, tables: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Take one text through a layer, and return the keys and values that it caches."""
    count = len(states[number])
    rope = tables[0][:count], tables[1][:count]
    states[number], key, value = layer(states[number], rope, (None, causal_mask(layer.config, count)), None)
    return key, value


def _embed(store: QuantizedStore, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """(T, C) embeddings of each text; only the rows that occur are dequantized."""
    weight, ids = store.get(EMBEDDING), torch.tensor([token for text in texts for token in text])
    if isinstance(weight, Tensor):
        rows = weight[ids]
    else:
        zeros = None if weight.zero_points is None else weight.zero_points[ids]
        rows = dequantize(QuantizedWeight(weight.scheme, weight.codes[ids], weight.scales[ids], zeros))
    ends = list(itertools.accumulate(len(text) for text in texts))
    return [rows[end - len(text) : end] for end, text in zip(ends, texts, strict=True)]


def _pair_lengths(keys: Tensor) -> Tensor:
    """(Hkv, T, D): of every channel, the length of the pair that RoPE turns it in."""
    first, second = keys.chunk(2, dim=-1)
    return torch.hypot(first, second).repeat(1, 1, 2)


def _scale(largest: Tensor) -> Tensor:
    """Scales that cover magnitudes with some headroom, representable in bfloat16 and positive.

    Few bits, so that noise in the last bits of a sum, as from another number of threads, gives the same scales.
    """
    # A channel that the text leaves at zero is not clipped at once by a text that does not.
    floor = max(float(largest.max()) * _SMALLEST_SHARE, _SMALLEST)
    return (largest.clamp(min=floor) * (HEADROOM / HIGHEST)).to(torch.bfloat16).to(torch.float32)
