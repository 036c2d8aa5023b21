"""Quantization: affine maths, scale search, methods, packing and the quantized store."""

from helium_edge.quant.affine import QuantizedWeight, dequantize
from helium_edge.quant.methods import METHODS
from helium_edge.quant.plan import PlannedWeight, plan_weights
from helium_edge.quant.store import QuantizedStore, WeightReport, WeightStore

__all__ = [
    "METHODS",
    "PlannedWeight",
    "QuantizedStore",
    "QuantizedWeight",
    "WeightReport",
    "WeightStore",
    "dequantize",
    "plan_weights",
]
