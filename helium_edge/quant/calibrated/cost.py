"""What a calibration holds in memory, known from the shape of the model: it does not grow with the layers.

Shapes: T tokens of the text, C hidden_size, I intermediate_size, H query heads, D head_dim, K the widest input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from helium_edge.config import ModelConfig
from helium_edge.model.weights import EMBEDDING
from helium_edge.quant.calibrated.inputs import INPUTS, readers
from helium_edge.quant.plan import PlannedWeight

_PER_MOMENT = 36
"""Bytes for each number of a (K, K) moment: H and C in float32, three matrices of a factorisation in float64, and
the factor in float32."""

_PER_WEIGHT = 16
"""Bytes for each weight of the matrices that are worked on: as they are, folded, their target, what is found."""


def peak_bytes(config: ModelConfig, plan: Sequence[PlannedWeight], tokens: int) -> int:
    """Estimated bytes of a calibration at its peak.

    Args:
        config: The model.
        plan: Its matrices.
        tokens: T.
    """
    attention, hidden, inner = (
        config.num_attention_heads * config.head_dim,
        config.hidden_size,
        config.intermediate_size,
    )
    sizes = {planned.name: math.prod(planned.shape) for planned in plan}
    stacks = [sum(sizes[name] for name in readers(0, name_of)) for name_of in INPUTS]
    head = max((size for name, size in sizes.items() if "layers." not in name and name != EMBEDDING), default=0)
    widest = max(attention, hidden, inner)
    # Residual streams of both models and a sum; four inputs of the original; an input and its difference.
    states = 4 * tokens * (3 * hidden + (2 * hidden + attention + inner) + 2 * widest)
    in_layer = _PER_MOMENT * widest**2 + 4 * sum(stacks) + _PER_WEIGHT * max(stacks)
    return states + max(in_layer, _PER_MOMENT * hidden**2 + _PER_WEIGHT * head)
