"""Milliseconds of the head's MatMulNBits by accuracy level and block size: the figures of ADR 3.

    python benchmarks/head_accuracy_level.py [--bits 8] [--rows 48000] [--columns 2560] [--tokens 1] [--threads 0]

Builds a one-node model with random codes. Errors are against level 0, over the rms of its output.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

LEVELS = (0, 1, 4)
BLOCKS = (32, 128)
SECONDS_PER_CASE = 3.0


def build(
    codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.float32], shape: tuple[int, int], bits: int, level: int
) -> bytes:
    """A model of one MatMulNBits node, x (1, T, K) to y (1, T, N)."""
    rows, columns = shape
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((1, "T", columns)))
    y = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((1, "T", rows)))
    weight, scale = (
        ir.Value(
            name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape(array.shape),
            const_value=ir.tensor(array, name=name),
        )
        for name, array in (("codes", codes), ("scales", scales))
    )  # fmt: skip
    attributes = {
        "K": columns, "N": rows, "bits": bits, "block_size": columns // scales.shape[1], "accuracy_level": level,
    }  # fmt: skip
    node = ir.node("MatMulNBits", [x, weight, scale], attributes, domain="com.microsoft", outputs=[y])
    graph = ir.Graph(
        [x],
        [y],
        nodes=[node],
        initializers=[weight, scale],
        opset_imports={"": 23, "com.microsoft": 1},
        name="head",
    )
    return bytes(ir.to_proto(ir.Model(graph, ir_version=11)).SerializeToString())


def measure(session: ort.InferenceSession, x: npt.NDArray[np.float32]) -> tuple[float, npt.NDArray[np.float32]]:
    """Median milliseconds of a call, and its output."""
    (output,) = session.run(None, {"x": x})
    times: list[float] = []
    while sum(times) < SECONDS_PER_CASE and len(times) < 200:
        start = time.perf_counter()
        session.run(None, {"x": x})
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times)), output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, choices=(4, 8), default=8)
    parser.add_argument("--rows", type=int, default=48000)
    parser.add_argument("--columns", type=int, default=2560)
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="0 lets ONNX Runtime choose")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    x = rng.standard_normal((1, args.tokens, args.columns), dtype=np.float32)
    print(f"onnxruntime {ort.__version__}, {args.bits} bits, {args.rows} x {args.columns}, T = {args.tokens}")
    for block in BLOCKS:
        blocks = args.columns // block
        codes = rng.integers(0, 256, (args.rows, blocks, block * args.bits // 8), dtype=np.uint8)
        scales = np.full((args.rows, blocks), 0.01, np.float32)
        exact = None
        for level in LEVELS:
            model = build(codes, scales, (args.rows, args.columns), args.bits, level)
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            ms, output = measure(session, x)
            exact = output if exact is None else exact
            error = (output - exact) / np.sqrt(np.square(exact).mean())
            largest, usual = np.abs(error).max(), np.sqrt(np.square(error).mean())
            print(
                f"block {block:3}  accuracy_level {level}  {ms:8.2f} ms  "
                f"largest error {largest:.1e}  rms error {usual:.1e}"
            )


if __name__ == "__main__":
    main()
