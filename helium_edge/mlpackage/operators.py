"""Operators of MIL that say their shapes themselves; each appends to the builder where it is called.

Shapes: R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from helium_edge.mlpackage.builder import FunctionBuilder, Value

Table = npt.NDArray[Any]
"""A constant: small ones stand in the program, others in the weights file."""


def gather(b: FunctionBuilder, table: Value | Table, rows: Value, count: int) -> Value:
    """Some of `count` rows of a table, (R, ...).

    Indices are of 16 bits where they fit, as coremltools writes them: Apple's Neural Engine knows no longer ones.
    """
    if count <= 1 << 16:
        rows = b.op("cast", rows.shape, "uint16", x=rows, dtype="uint16")
    shape = (rows.shape[0], *table.shape[1:])
    return b.op("gather", shape, x=table, indices=rows, axis=0, batch_dims=0, validate_indices=False)


def reshape(b: FunctionBuilder, x: Value, shape: tuple[int, ...]) -> Value:
    """The same numbers in another shape."""
    return x if x.shape == shape else b.op("reshape", shape, x.dtype, x=x, shape=list(shape))


def slice_axis(b: FunctionBuilder, x: Value, axis: int, start: int, stop: int, output: str | None = None) -> Value:
    """A part of one axis."""
    begin, end = [0] * len(x.shape), list(x.shape)
    begin[axis], end[axis] = start, stop
    shape = tuple(stop - start if index == axis else size for index, size in enumerate(x.shape))
    to_the_end = [index != axis or stop == size for index, size in enumerate(x.shape)]
    return b.op("slice_by_index", shape, output=output, x=x, begin=begin, end=end, end_mask=to_the_end)


def concat(b: FunctionBuilder, parts: Sequence[Value]) -> Value:
    """Parts joined along the last axis."""
    if len(parts) == 1:
        return parts[0]
    shape = (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
    return b.op("concat", shape, values=parts, axis=-1, interleave=False)
