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
        int8_block_size: MatMulNBits block that carries the repeated per-channel scale of an int8 weight; less for
            a matrix whose rows it does not divide. Activations are rounded in the same blocks.
        min_runtime: The oldest onnxruntime that must run the bundle. Below 1.23 the graphs take forms that older
            runtimes, and onnxruntime-web's WebGPU build, have kernels for.
    """

    dialect: Literal["contrib", "portable"] = "contrib"
    accuracy_level: Literal[0, 1, 4] = 4
    head_accuracy_level: Literal[0, 1, 4] = 4
    int8_block_size: Literal[32, 64, 128, 256] = 32
    min_runtime: Literal["1.19", "1.22", "1.23"] = "1.23"

    @property
    def older(self) -> bool:
        """Whether the graphs are to run on runtimes before opset 23 and 8-bit GatherBlockQuantized."""
        return self.min_runtime != "1.23"

    def int8_block(self, columns: int) -> int:
        """The block of an int8 weight with rows of `columns`: the largest that divides them, or 32."""
        sizes = (size for size in (256, 128, 64) if size <= self.int8_block_size and columns % size == 0)
        return next(sizes, 32)


Options = OnnxOptions
