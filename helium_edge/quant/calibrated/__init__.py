"""`method: calibrated`: weights rounded by what a text shows of their inputs; `CalibratedStore` is the entrance.

walk (layer by layer, the original beside the quantized model) > method (one input's matrices) > folds, target,
gptq, refine (its steps) > statistics.
"""

from helium_edge.quant.calibrated.store import CalibratedStore, rounds_for

__all__ = ["CalibratedStore", "rounds_for"]
