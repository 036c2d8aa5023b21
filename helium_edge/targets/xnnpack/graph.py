"""`GraphBuilder`: an XNNPACK graph, node by node, in the terms of its schema.

A value is a number. Values that come from outside are arguments: values of the method that calls the graph. Shapes
are static and follow from the nodes. Constants are arguments too, except those that XNNPACK packs into memory of
its own (matrices and biases of products): what else is constant it reads where it lies, at every call.

Source: pytorch/executorch backends/xnnpack/serialization/schema.fbs, runtime/XNNCompiler.cpp (1.5.1); XNNPACK
include/xnnpack.h.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from helium_edge.pte import xnnpack_schema as schema
from helium_edge.pte.builder import NamedData
from helium_edge.pte.xnnpack_schema import NO_OFFSET, NOTHING, Datatype, encode_graph

TRANSPOSE_B = 1
"""XNNPACK's flag of a batch product whose second operand has its axes exchanged, (B, N, K)."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A constant matrix of a product, and its bias.

    Attributes:
        shape: (N, K).
        datatype: QBINT4 (int4 by groups), QCINT8 (int8 by channel) or FP32.
        group: Input channels that share a scale; 0 where the scheme has no groups.
        data: Codes or float32 weights.
        scales: bfloat16 of groups, float32 of channels; None in float32.
        bias: (N,) float32, or None.
    """

    shape: tuple[int, int]
    datatype: Datatype
    group: int
    data: NamedData
    scales: NamedData | None
    bias: NamedData | None


class GraphBuilder:
    """One graph; nodes run in the order in which they are added."""

    def __init__(self) -> None:
        self._nodes: list[schema.XNode] = []
        self._values: list[schema.XValue] = []
        self._constants: dict[NamedData, int] = {}
        self._inputs: dict[int, int] = {}
        self._outputs: dict[int, int] = {}

    # -- values

    def shape(self, value: int) -> list[int]:
        """The shape of a value."""
        return self._values[value].tensor.dims

    def input(self, argument: int, shape: Sequence[int], kind: Datatype = Datatype.FP32) -> int:
        """A value of the method: float32, float16 (FP16), or int8 codes in units of 1 (QINT8)."""
        if argument not in self._inputs:
            self._inputs[argument] = self._of_kind(shape, kind)
        return self._inputs[argument]

    def output(self, value: int, argument: int) -> None:
        """Let a value be a result, written to a value of the method."""
        self._outputs[argument] = value

    def _value(
        self,
        shape: Sequence[int],
        datatype: Datatype = Datatype.FP32,
        quantized: schema.QuantParams | None = None,
        data: NamedData | None = None,
    ) -> int:
        number = len(self._values)
        tensor = schema.XNNTensorValue(
            datatype, len(shape), list(shape), self._constant(data), NOTHING, flags=0, id_out=number
        )
        whole = tensor if quantized is None else schema.XNNQuantizedTensorValue(tensor, quantized)
        self._values.append(schema.XValue(whole))
        return number

    def _constant(self, data: NamedData | None) -> int:
        if data is None:
            return 0
        return self._constants.setdefault(data, len(self._constants) + 1)  # 0 is for values that are not constant

    def _of_kind(self, shape: Sequence[int], kind: Datatype) -> int:
        return self._value(shape, kind, schema.PerTensorQuant(1.0, 0) if kind == Datatype.QINT8 else None)

    def _add(self, node: schema.Node, bounds: schema.OutputMinMax | None = None) -> int:
        self._nodes.append(schema.XNode(node, len(self._nodes), bounds))
        return node.output_id

    # -- nodes

    def add(self, left: int, right: int) -> int:
        """Left + right, broadcast."""
        return self._binary(schema.XNNAdd, left, right)

    def multiply(self, left: int, right: int) -> int:
        """Left * right, broadcast."""
        return self._binary(schema.XNNMultiply, left, right)

    def _binary(self, kind: type[schema.Binary], left: int, right: int) -> int:
        out = self._value(_broadcast(self.shape(left), self.shape(right)))
        return self._add(kind(left, right, out))

    def unary(self, kind: type[schema.Unary], x: int) -> int:
        """A function of each number, or of each row."""
        return self._add(kind(x, self._value(self.shape(x))))

    def clamp(self, x: int, low: float, high: float) -> int:
        """x, but not below `low` and not above `high`."""
        out = self._value(self.shape(x))
        return self._add(schema.XNNClamp(x, out), schema.OutputMinMax(low, high))

    def to_codes(self, x: int) -> int:
        """int8 codes in units of 1: rounded half to even, clamped to [-128, 127]."""
        return self._add(schema.XNNConvert(x, self._of_kind(self.shape(x), Datatype.QINT8)))

    def to_half(self, x: int) -> int:
        """Numbers as float16, rounded half to even."""
        return self._add(schema.XNNConvert(x, self._of_kind(self.shape(x), Datatype.FP16)))

    def widen(self, x: int) -> int:
        """Codes or float16 as float32."""
        return self._add(schema.XNNConvert(x, self._value(self.shape(x))))

    def quantize_rows(self, x: int) -> int:
        """(T, K) as int8, each row with the scale and zero point that it needs."""
        out = self._value(self.shape(x), Datatype.QDINT8, schema.PerTokenDynamicQuant(1))
        return self._add(schema.XNNConvert(x, out))

    def linear(self, x: int, matrix: Matrix) -> int:
        """(T, K) @ (N, K)' + bias; `x` from `quantize_rows` where the matrix is quantized."""
        rows, columns = matrix.shape
        params: schema.QuantParams | None = None
        if matrix.scales is not None:
            scales = self._constant(matrix.scales)
            if matrix.datatype == Datatype.QBINT4:
                count = rows * columns // matrix.group
                params = schema.PerChannelGroupQuant(
                    group_size=matrix.group, scale_buffer_idx=scales, num_scales=count
                )
            else:
                params = schema.PerChannelQuant(scale_buffer_idx=scales, num_scales=rows)
        weight = self._value(matrix.shape, matrix.datatype, params, matrix.data)
        bias = NOTHING if matrix.bias is None else self._value([rows], data=matrix.bias)
        out = self._value([*self.shape(x)[:-1], rows])
        return self._add(schema.XNNFullyConnected(x, weight, bias, out))

    def matmul(self, left: int, right: int, *, transpose: bool = False) -> int:
        """(B, M, K) @ (B, K, N), or with `transpose` (B, M, K) @ (B, N, K)'."""
        columns = self.shape(right)[1 if transpose else 2]
        out = self._value([*self.shape(left)[:2], columns])
        return self._add(schema.XNNBatchMatrixMultiply(left, right, out, TRANSPOSE_B if transpose else 0))

    def reshape(self, x: int, shape: Sequence[int]) -> int:
        """The same numbers in another shape; `x` itself where it has that shape."""
        if self.shape(x) == list(shape):
            return x
        assert math.prod(self.shape(x)) == math.prod(shape)
        return self._add(schema.XNNStaticReshape(len(shape), list(shape), x, self._value(shape)))

    def transpose(self, x: int, perm: Sequence[int]) -> int:
        """Axes in another order."""
        shape = [self.shape(x)[axis] for axis in perm]
        return self._add(schema.XNNStaticTranspose(len(perm), list(perm), x, self._value(shape)))

    def slice(self, x: int, axis: int, start: int, end: int) -> int:
        """A copy of the numbers from `start` to `end` of an axis; `x` itself where that is all."""
        whole = self.shape(x)
        if (start, end) == (0, whole[axis]):
            return x
        offsets, sizes = [0] * len(whole), list(whole)
        offsets[axis], sizes[axis] = start, end - start
        out = self._of_kind(sizes, Datatype(self._values[x].tensor.datatype))
        return self._add(schema.XNNStaticSlice(len(whole), offsets, sizes, x, out))

    def concatenate(self, parts: Sequence[int], axis: int) -> int:
        """Several values, joined along an axis; more than five in several steps."""
        most = len(schema.CONCATENATIONS) + 1
        while len(parts) > most:
            groups = [parts[at : at + most] for at in range(0, len(parts), most)]
            parts = [self.concatenate(group, axis) for group in groups]
        if len(parts) == 1:
            return parts[0]
        shape = list(self.shape(parts[0]))
        shape[axis] = sum(self.shape(part)[axis] for part in parts)
        kind, padded = schema.CONCATENATIONS[len(parts) - 2], [*parts, *[NOTHING] * (most - len(parts))]
        first, second, third, fourth, fifth = padded
        return self._add(kind(axis, first, second, third, fourth, self._value(shape), 0, fifth))

    # -- the whole

    @property
    def arguments(self) -> list[int]:
        """Values of the method, in the order in which the delegate is called with them."""
        return [*self._inputs, *self._outputs]

    def finish(self) -> bytes:
        """The graph as the data of a delegate, once its constants have names."""
        for external, value in enumerate([*self._inputs.values(), *self._outputs.values()]):
            tensor = self._values[value].tensor
            tensor.external_id = external
            tensor.flags |= schema.EXTERNAL_INPUT if external < len(self._inputs) else schema.EXTERNAL_OUTPUT
        constants = [schema.ConstantDataOffset(NO_OFFSET, data.size, data.key) for data in self._constants]
        return encode_graph(
            schema.XNNGraph(
                version="0", xnodes=self._nodes, xvalues=self._values, num_externs=len(self.arguments),
                input_ids=list(self._inputs.values()), output_ids=list(self._outputs.values()),
                constant_data=[schema.ConstantDataOffset(), *constants],
            )
        )  # fmt: skip


def _broadcast(left: Sequence[int], right: Sequence[int]) -> list[int]:
    length = max(len(left), len(right))
    pairs = zip([1] * (length - len(left)) + [*left], [1] * (length - len(right)) + [*right], strict=True)
    return [max(pair) for pair in pairs]
