"""The MIL operators that our CoreML programs use, in numpy.

Each takes its arguments by the names of the MIL specification, floats already widened to float32, and computes in
float32; the interpreter rounds the result to the type that the program gives it. So one operator rounds once, and
sums and products accumulate in float32, as Apple's engines are understood to do; that assumption is not tested.

Source: coremltools, mil/ops/defs (the value inference of each operator).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]
Arguments = Mapping[str, Any]
Operator = Callable[[Arguments], Any]


def dequantize_blockwise(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """`constexpr_blockwise_shift_scale`: (data - offset) * scale, one scale for a block along each axis.

    Args:
        data: Integer codes.
        scale: As many axes as `data`; each size divides that of `data`.
        offset: Shaped as `scale`, or None for 0.

    Returns:
        float32 of the shape of `data`.
    """
    codes = data.astype(np.float32)
    if offset is not None:
        codes -= _repeat_blocks(offset.astype(np.float32), data.shape)
    return codes * _repeat_blocks(scale.astype(np.float32), data.shape)


def dequantize_per_channel(data: Array, scale: Array, zero_point: Array, axis: int) -> Array:
    """`constexpr_affine_dequantize`: scale * (data - zero_point), scale and zero point along one axis or scalar.

    Returns:
        float32 of the shape of `data`.
    """
    shape = [1] * data.ndim
    shape[axis] = -1
    codes = data.astype(np.float32) - zero_point.astype(np.float32).reshape(shape)
    return codes * scale.astype(np.float32).reshape(shape)


def _repeat_blocks(values: Array, shape: tuple[int, ...]) -> Array:
    for axis, size in enumerate(shape):
        if values.shape[axis] not in (1, size):
            values = np.repeat(values, size // values.shape[axis], axis)
    return values


def _axes(arguments: Arguments) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.atleast_1d(arguments["axes"]))


def _cast(arguments: Arguments) -> Array:
    names = {"fp16": "float16", "fp32": "float32"}
    target = np.dtype(names.get(str(arguments["dtype"]), str(arguments["dtype"])))
    x = np.asarray(arguments["x"])
    result = x.astype(target)
    if target.kind in "iu" and not np.array_equal(result, x):
        raise ValueError(f"cast to {target} changes the values {x.min()} to {x.max()}")
    return result


def _gather(arguments: Arguments) -> Array:
    if arguments.get("batch_dims", 0) != 0:
        raise ValueError("gather with batch_dims is not supported")
    indices, table = np.asarray(arguments["indices"]), np.asarray(arguments["x"])
    axis = int(arguments["axis"])
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < table.shape[axis]:
        raise ValueError(f"gather from {table.shape[axis]} rows, indices {indices.min()} to {indices.max()}")
    return np.take(table, indices.astype(np.int64), axis)


def _linear(arguments: Arguments) -> Array:
    y: Array = arguments["x"] @ arguments["weight"].T
    bias = arguments.get("bias")
    return y if bias is None else y + bias


def _matmul(arguments: Arguments) -> Array:
    x, y = arguments["x"], arguments["y"]
    x = np.swapaxes(x, -1, -2) if arguments["transpose_x"] else x
    y = np.swapaxes(y, -1, -2) if arguments["transpose_y"] else y
    result: Array = x @ y
    return result


def _slice_by_index(arguments: Arguments) -> Array:
    x = np.asarray(arguments["x"])
    flags = {
        name: np.broadcast_to(arguments.get(name, False), (x.ndim,))
        for name in ("begin_mask", "end_mask", "squeeze_mask")
    }
    strides = np.broadcast_to(arguments.get("stride", 1), (x.ndim,))
    index: list[int | slice] = []
    for axis in range(x.ndim):
        begin, end = int(arguments["begin"][axis]), int(arguments["end"][axis])
        if flags["squeeze_mask"][axis]:
            index.append(begin)
        else:
            first = None if flags["begin_mask"][axis] else begin
            last = None if flags["end_mask"][axis] else end
            index.append(slice(first, last, int(strides[axis])))
    result: Array = x[tuple(index)]
    return result


def _split(arguments: Arguments) -> list[Array]:
    x, axis = np.asarray(arguments["x"]), int(arguments["axis"])
    sizes = arguments.get("split_sizes")
    if sizes is None:
        return np.split(x, int(arguments["num_splits"]), axis)
    return np.split(x, np.cumsum(sizes)[:-1].tolist(), axis)


def _softmax(arguments: Arguments) -> Array:
    x, axis = arguments["x"], int(arguments["axis"])
    powers = np.exp(x - x.max(axis, keepdims=True))
    result: Array = powers / powers.sum(axis, keepdims=True)
    return result


def _silu(arguments: Arguments) -> Array:
    return np.asarray(torch.nn.functional.silu(torch.from_numpy(arguments["x"])).numpy())


def _gelu(arguments: Arguments) -> Array:
    approximations = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}
    mode = approximations[str(arguments["mode"])]
    return np.asarray(torch.nn.functional.gelu(torch.from_numpy(arguments["x"]), approximate=mode).numpy())


OPERATORS: dict[str, Operator] = {
    "abs": lambda a: np.abs(a["x"]),
    "add": lambda a: a["x"] + a["y"],
    "cast": _cast,
    "concat": lambda a: np.concatenate([np.asarray(value) for value in a["values"]], int(a["axis"])),
    "equal": lambda a: np.equal(a["x"], a["y"]),
    "expand_dims": lambda a: np.expand_dims(a["x"], _axes(a)),
    "gather": _gather,
    "gelu": _gelu,
    "greater_equal": lambda a: np.greater_equal(a["x"], a["y"]),
    "identity": lambda a: a["x"],
    "less": lambda a: np.less(a["x"], a["y"]),
    "linear": _linear,
    "matmul": _matmul,
    "maximum": lambda a: np.maximum(a["x"], a["y"]),
    "mul": lambda a: a["x"] * a["y"],
    "not_equal": lambda a: np.not_equal(a["x"], a["y"]),
    "reduce_max": lambda a: np.max(a["x"], _axes(a), keepdims=bool(a["keep_dims"])),
    "reduce_mean": lambda a: np.mean(a["x"], _axes(a), keepdims=bool(a["keep_dims"])),
    "relu": lambda a: np.maximum(a["x"], 0),
    "reshape": lambda a: np.reshape(a["x"], [int(size) for size in a["shape"]]),
    "rsqrt": lambda a: 1.0 / np.sqrt(a["x"] + a["epsilon"]),
    "select": lambda a: np.where(a["cond"], a["a"], a["b"]),
    "silu": _silu,
    "slice_by_index": _slice_by_index,
    "softmax": _softmax,
    "split": _split,
    "sub": lambda a: a["x"] - a["y"],
    "transpose": lambda a: np.transpose(a["x"], [int(axis) for axis in a["perm"]]),
}
"""By MIL name; `const` and the `constexpr` operators are evaluated when a program is loaded."""
