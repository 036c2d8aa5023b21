"""What GroupQueryAttention says of its cache, read back from a graph: quantized as calibrated, or not at all."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import Tensor

from helium_edge.model.kv_cache import SIDES, KvScales, scale_name
from helium_edge.targets.artifact import WeightDifference, wrong_scales
from helium_edge.targets.onnx.contrib import INT8_CACHE

_SCALE_INPUTS = (12, 13)


def wrong_cache(node: ir.Node, layer: int, file: str, scales: KvScales | None) -> list[WeightDifference]:
    """Differences of one GroupQueryAttention from what was calibrated.

    Args:
        node: The operator.
        layer: Its layer.
        file: Its graph.
        scales: What was calibrated; None where the cache is to hold real values.
    """
    found = []
    for name, expected in INT8_CACHE.items():
        attribute = node.attributes.get(name)
        value = None if attribute is None else attribute.value
        if scales is None and value not in (None, "NONE", 0):
            found.append(_constant(name, layer, file, f"{value!r} where the cache is not quantized"))
        elif scales is not None and value != expected:
            found.append(_constant(name, layer, file, f"{value!r}, not {expected!r}"))
    if scales is not None:
        for side, index in zip(SIDES, _SCALE_INPUTS, strict=True):
            name, expected = scale_name(layer, side), scales.side(layer, side)
            tensor = _read(node, index)
            other = scales.side(layer, "value" if side == "key" else "key")
            found += wrong_scales(name, layer, file, tensor, expected, other)
    return found


def _constant(name: str, layer: int, file: str, said: str) -> WeightDifference:
    return WeightDifference(name, layer, file, "constant", diagnosis=said)


def _read(node: ir.Node, index: int) -> Tensor | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or value.const_value is None:
        return None
    return torch.from_numpy(value.const_value.numpy().copy())
