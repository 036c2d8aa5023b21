"""What a method does with its cache, read back from its delegate: codes as calibrated, or no codes at all.

Shape legend: H / Hkv query / key-value heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from helium_edge.config import ModelConfig
from helium_edge.model.kv_cache import SIDES, KvScales, Side, scale_name
from helium_edge.pte.xnnpack_schema import Datatype, PerTensorQuant, XNNConvert, XNNMultiply
from helium_edge.targets.artifact import WeightDifference, wrong_scales
from helium_edge.targets.xnnpack.anatomy import Anatomy, Layer, inputs_of

_CODES = PerTensorQuant(scale=1.0, zero_point=0)
"""Of the conversions: what a code is worth stands in constants beside them."""

_REALS = {"float32": Datatype.FP32, "float16": Datatype.FP16}


def wrong_cache(
    anatomy: Anatomy, config: ModelConfig, scales: KvScales | None, dtype: str
) -> Iterator[WeightDifference]:
    """Differences of the caches of a method from what was calibrated.

    Args:
        anatomy: The method.
        config: The model.
        scales: What was calibrated; None where the cache is to hold real values.
        dtype: Of the cache.
    """
    for index in range(len(anatomy.layers)):
        for side in SIDES:
            yield from _wrong_types(anatomy, index, side, dtype)
        if scales is not None:
            yield from _wrong_scales(anatomy, index, config, scales)


def _buffers(anatomy: Anatomy, layer: int, side: Side) -> dict[str, int]:
    """Values of the delegate: a cache, and the new rows of it."""
    plan, number = anatomy.delegate.plan, 2 * layer + (side == "value")
    pasts = plan.inputs[len(plan.inputs) - 2 * len(anatomy.layers) :]
    found = {"cache": pasts[number], "new rows": plan.outputs[1 + number]}
    return {name: anatomy.delegate.value_of(value) for name, value in found.items()}


def _wrong_types(anatomy: Anatomy, layer: int, side: Side, dtype: str) -> Iterator[WeightDifference]:
    for name, value in _buffers(anatomy, layer, side).items():
        whole = anatomy.delegate.graph.xvalues[value]
        found, kind = whole.quant_params, Datatype(whole.tensor.datatype)
        said = None
        if found != (_CODES if dtype == "int8" else None):
            said = "no codes where the cache is int8" if found is None else f"codes by {found}"
        elif found is None and kind != _REALS[dtype]:
            said = f"{kind.name} where the cache is {dtype}"
        if said is not None:
            yield WeightDifference(f"{side} {name}", layer, anatomy.delegate.method, "constant", diagnosis=said)


def _wrong_scales(
    anatomy: Anatomy, index: int, config: ModelConfig, scales: KvScales
) -> Iterator[WeightDifference]:
    group, graph = config.num_attention_heads // config.num_key_value_heads, anatomy.delegate.method
    inverses, factors = scale_constants(anatomy, index)
    for side in SIDES:
        name, expected = scale_name(index, side), scales.side(index, side)
        other = scales.side(index, "value" if side == "key" else "key")
        found = _constant(anatomy, inverses.get(side))
        yield from wrong_scales(f"1 / {name}", index, graph, found, expected.reciprocal(), other.reciprocal())
        # Each query head has those of its key-value head.
        heads, others = expected.repeat_interleave(group, dim=0), other.repeat_interleave(group, dim=0)
        yield from wrong_scales(name, index, graph, _constant(anatomy, factors.get(side)), heads, others)


def _constant(anatomy: Anatomy, value: int | None) -> torch.Tensor | None:
    return None if value is None else anatomy.delegate.constant(value)


def scale_constants(anatomy: Anatomy, index: int) -> tuple[dict[Side, int], dict[Side, int]]:
    """Constants of a layer by which an int8 cache is scaled; values of the delegate by side, absent where unknown.

    Returns:
        What new rows are multiplied by before they are rounded, (Hkv, 1, D); and what queries (keys: (H, 1, D))
        and the result of attention (values: (H * D,)) are multiplied by.
    """
    layer, found = anatomy.layers[index], _multipliers(anatomy, anatomy.layers[index])
    rounded = {side: found.pop(_rounded(anatomy, index, side), None) for side in SIDES}
    # What is neither for new rows nor for the result is for queries.
    factors = {"value": found.pop(layer.o.x, None), "key": next(iter(found.values())) if len(found) == 1 else None}
    return (
        {side: value for side, value in rounded.items() if value is not None},
        {side: value for side in SIDES if (value := factors[side]) is not None},
    )


def _rounded(anatomy: Anatomy, layer: int, side: Side) -> int:
    """What new rows are converted from; -1 where they are not."""
    node = anatomy.delegate.producers.get(_buffers(anatomy, layer, side)["new rows"])
    return node.input_id if isinstance(node, XNNConvert) else -1


def _multipliers(anatomy: Anatomy, layer: Layer) -> dict[int, int]:
    """Constants of several numbers that attention multiplies by, by the value that it makes."""
    delegate, inside = anatomy.delegate, False
    found: dict[int, int] = {}
    for node in delegate.nodes:
        if inside and isinstance(node, XNNMultiply):
            for value in inputs_of(node):
                constant = delegate.constant(value)
                if constant is not None and constant.numel() > 1:
                    found[node.output_id] = value
        inside |= node.output_id == layer.qkv[-1].out
        if node.output_id == layer.o.x:
            break
    return found
