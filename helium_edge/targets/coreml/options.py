"""What a recipe may say of the CoreML target."""

from __future__ import annotations

from typing import Literal

from helium_edge.schemas import StrictModel


class CoremlOptions(StrictModel):
    """Options of the CoreML target.

    Args:
        precision: Of activations, unquantized weights and the cache; the only one that all Apple engines have.
        ios: The oldest iOS that is to run it (17: also macOS 14; 18: macOS 15). By default 18 for int4 weights and
            17 without. From 18 on both methods share one set of weights, before each has its own copy in the file.
    """

    precision: Literal["float16"] = "float16"
    ios: Literal[17, 18] | None = None


Options = CoremlOptions
