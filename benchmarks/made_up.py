"""Made-up weights of released shapes, for benchmarks that are about time and memory."""

from __future__ import annotations

from typing import Any

import torch

from helium_edge.model.kv_cache import KvScales
from helium_edge.model.weights import vector_names
from helium_edge.quant import QuantizedWeight, plan_weights


class MadeUpStore:
    """Weights of the right shapes, no two equal; the same each time."""

    def __init__(self, config: Any, quantization: Any) -> None:
        self.config = config
        self.plan = plan_weights(config, quantization)
        self._planned = {planned.name: planned for planned in self.plan}
        self._number = {name: index for index, name in enumerate([*self._planned, *vector_names(config)])}

    def get(self, name: str) -> QuantizedWeight | torch.Tensor:
        planned, number = self._planned[name], self._number[name]
        if planned.scheme is None:
            return torch.full(planned.shape, 0.01 + number)
        codes = torch.ones(planned.shape, dtype=torch.int8)
        codes[0, :16] = torch.tensor([number >> bit & 1 for bit in range(16)], dtype=torch.int8)
        groups = planned.shape[1] // (planned.scheme.group_size or planned.shape[1])
        scales = torch.full((len(codes), groups), 0.0078125)
        zero_points = None if planned.scheme.symmetric else torch.full(scales.shape, 8, dtype=torch.int8)
        return QuantizedWeight(planned.scheme, codes, scales, zero_points)

    def vector(self, name: str) -> torch.Tensor:
        sizes = {"q_proj": self.config.hidden_size, "k_proj": self.config.kv_size, "v_proj": self.config.kv_size}
        size = sizes.get(name.split(".")[-2], self.config.hidden_size)
        return torch.full((size,), 1.0 + self._number[name] / 1024)


def made_up_scales(config: Any) -> KvScales:
    """Scales of an int8 cache."""
    scales = (torch.full((config.num_key_value_heads, config.head_dim), 0.03125),) * config.num_hidden_layers
    return KvScales(scales, scales)
