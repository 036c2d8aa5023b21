"""What a recipe may say of the ONNX target."""

from __future__ import annotations

from typing import Literal

from helium_edge.schemas import StrictModel


class OnnxOptions(StrictModel):
    """Options of the ONNX target.

    Args:
        dialect: `contrib` uses com.microsoft operators and updates the cache in place; `portable` uses standard
            operators only and returns the new rows (`append`).
        accuracy_level: MatMulNBits: 0 and 1 compute in float32, 4 quantizes activations to int8 per block.
        head_accuracy_level: The same for lm_head.
        int8_block_size: MatMulNBits block that carries the repeated per-channel scale of an int8 weight.
    """

    dialect: Literal["contrib", "portable"] = "contrib"
    accuracy_level: Literal[0, 1, 4] = 4
    head_accuracy_level: Literal[0, 1, 4] = 4
    int8_block_size: Literal[32, 64, 128] = 32


Options = OnnxOptions
