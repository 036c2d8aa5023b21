"""The tables of a graph of ExecuTorch's XNNPACK backend, in the terms and the order of its schema.

Read: backends/xnnpack/serialization/schema.fbs of executorch 1.5.1, file identifier XN01. Members of the union of
nodes that none of our graphs has are there by name, since a member is stored by its place.
`tests/unit/pte/test_schemas.py` compares with the installed schema.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias, cast

from helium_edge.pte.flatbuffer import (
    FlatbufferError,
    Table,
    decode,
    deprecated,
    encode,
    scalar,
    scalars,
    string,
    table,
    tables,
    union,
)

IDENTIFIER = "XN01"
BACKEND = "XnnpackBackend"
NOTHING = 2**32 - 1
"""The id of what is absent."""
EXTERNAL_INPUT, EXTERNAL_OUTPUT = 1, 2
"""Flags of values that are handed in and out."""
NO_OFFSET = 2**64 - 1
"""Offset of constant data that is found by its name."""

_HEADER = struct.Struct("<4x4sHIIIQ")
_MAGIC = b"XH00"
_ALIGNMENT = 16


class Datatype(IntEnum):
    """Types of values; the names are those of the schema without `xnn_datatype_`."""

    INVALID = 0
    FP32 = 1
    FP16 = 2
    QINT8 = 3
    QUINT8 = 4
    QINT32 = 5
    QCINT8 = 6
    QCINT32 = 7
    QCINT4 = 8
    QDINT8 = 9
    QBINT4 = 10
    QPINT8 = 11
    INT32 = 12
    PFP32 = 13
    BF16 = 14


@dataclass
class PerChannelQuant(Table):
    """One scale an output channel, in constant data."""

    scale: list[float] = scalars("f")
    channel_dim: int = scalar("i")
    scale_buffer_idx: int = scalar("I")
    num_scales: int = scalar("I")


@dataclass
class PerTensorQuant(Table):
    """One scale."""

    scale: float = scalar("f")
    zero_point: int = scalar("i")


@dataclass
class PerTokenDynamicQuant(Table):
    """Scale and zero point of each row, found as it is quantized."""

    num_nonbatch_dims: int = scalar("i")


@dataclass
class PerChannelGroupQuant(Table):
    """bfloat16 scales by groups of input channels, in constant data."""

    scale: list[float] = scalars("f")
    channel_dim: int = scalar("i")
    group_size: int = scalar("i")
    scale_bf16: None = deprecated()
    scale_buffer_idx: int = scalar("I")
    num_scales: int = scalar("I")


QuantParams: TypeAlias = PerChannelQuant | PerTensorQuant | PerTokenDynamicQuant | PerChannelGroupQuant


@dataclass
class XNNTensorValue(Table):
    """A value: type, shape, and whether it is constant, handed in or out."""

    datatype: int = scalar("h")
    num_dims: int = scalar("I")
    dims: list[int] = scalars("I")
    constant_buffer_idx: int = scalar("I")
    external_id: int = scalar("I")
    flags: int = scalar("I")
    id_out: int = scalar("I")


@dataclass
class XNNQuantizedTensorValue(Table):
    """A value of codes."""

    tensor_value: XNNTensorValue | None = table(XNNTensorValue)
    quant_params: QuantParams | None = union(
        PerChannelQuant, PerTensorQuant, PerTokenDynamicQuant, PerChannelGroupQuant
    )


@dataclass
class Binary(Table):
    """Two inputs, one output: `_XNNNode2x1`."""

    input1_id: int = scalar("I")
    input2_id: int = scalar("I")
    output_id: int = scalar("I")
    flags: int = scalar("I")


@dataclass
class Unary(Table):
    """One input, one output: `_XNNNode1x1`."""

    input_id: int = scalar("I")
    output_id: int = scalar("I")
    flags: int = scalar("I")


@dataclass
class Concatenation(Table):
    """Several inputs, joined along an axis: `_XNNCat`."""

    axis: int = scalar("I")
    input1_id: int = scalar("I")
    input2_id: int = scalar("I")
    input3_id: int = scalar("I")
    input4_id: int = scalar("I")
    output_id: int = scalar("I")
    flags: int = scalar("I")
    input5_id: int = scalar("I")


class XNNAdd(Binary):
    """a + b."""


class XNNSubtract(Binary):
    """a - b."""


class XNNMultiply(Binary):
    """a * b."""


class XNNBatchMatrixMultiply(Binary):
    """Products of matrices, (B, M, K) and (B, K, N)."""


class XNNSoftmax(Unary):
    """Softmax over the last axis."""


class XNNSigmoid(Unary):
    """1 / (1 + exp(-x))."""


class XNNTanh(Unary):
    """tanh(x)."""


class XNNGelu(Unary):
    """GELU, exact."""


class XNNReciprocalSquareRoot(Unary):
    """1 / sqrt(x)."""


class XNNClamp(Unary):
    """Bounds from the node's `output_min_max`."""


class XNNConvert(Unary):
    """From one datatype to another: quantization and its inverse."""


class XNNCopy(Unary):
    """The same numbers."""


class XNNConcatenate2(Concatenation):
    """Of two."""


class XNNConcatenate3(Concatenation):
    """Of three."""


class XNNConcatenate4(Concatenation):
    """Of four."""


class XNNConcatenate5(Concatenation):
    """Of five."""


CONCATENATIONS: tuple[type[Concatenation], ...] = (
    XNNConcatenate2,
    XNNConcatenate3,
    XNNConcatenate4,
    XNNConcatenate5,
)


@dataclass
class XNNFullyConnected(Table):
    """x @ filter.T + bias."""

    input1_id: int = scalar("I")
    filter_id: int = scalar("I")
    bias_id: int = scalar("I")
    output_id: int = scalar("I")
    flags: int = scalar("I")


@dataclass
class XNNStaticTranspose(Table):
    """Axes in another order."""

    num_dims: int = scalar("I")
    perm: list[int] = scalars("I")
    input_id: int = scalar("I")
    output_id: int = scalar("I")
    flags: int = scalar("I")


@dataclass
class XNNStaticReshape(Table):
    """Another shape of the same numbers; 0 is the size that the rest leaves."""

    num_dims: int = scalar("I")
    new_shape: list[int] = scalars("I")
    input_id: int = scalar("I")
    output_id: int = scalar("I")
    flags: int = scalar("I")


@dataclass
class XNNStaticSlice(Table):
    """A part, copied."""

    num_dims: int = scalar("I")
    offsets: list[int] = scalars("I")
    sizes: list[int] = scalars("I")
    input_id: int = scalar("I")
    output_id: int = scalar("I")
    flags: int = scalar("I")


Node: TypeAlias = (
    Binary | Unary | Concatenation | XNNFullyConnected | XNNStaticTranspose | XNNStaticReshape | XNNStaticSlice
)


def _unused(name: str) -> type[Table]:
    return cast("type[Table]", dataclasses.make_dataclass(name, [], bases=(Table,)))


_NODES: tuple[type[Table], ...] = (
    XNNAdd, XNNFullyConnected, XNNSoftmax, XNNSigmoid, XNNStaticTranspose, XNNClamp, _unused("XNNConv2d"),
    _unused("XNNDiv"), _unused("XNNStaticResizeBilinear2D"), _unused("XNNStaticConstantPad"),
    _unused("XNNAvgPooling2d"), _unused("XNNMinimum"), _unused("XNNDepthwiseConv2d"), _unused("XNNMaxPooling2d"),
    XNNMultiply, XNNSubtract, _unused("XNNFloor"), XNNConvert, _unused("XNNGlobalAvgPooling2d"), XNNStaticReshape,
    _unused("XNNArgMaxPooling2d"), _unused("XNNSquareRoot"), _unused("XNNCeiling"), _unused("XNNHardswish"),
    _unused("XNNLeakyReLU"), _unused("XNNMaximum"), _unused("XNNNegate"), _unused("XNNSquare"), _unused("XNNELU"),
    _unused("XNNAbs"), _unused("XNNPReLU"), XNNConcatenate2, XNNConcatenate3, XNNConcatenate4, XNNStaticSlice,
    _unused("XNNScaledDotProductAttention"), XNNBatchMatrixMultiply, XNNConcatenate5,
    _unused("XNNConvTranspose2d"), XNNReciprocalSquareRoot, _unused("XNNLog"), XNNGelu, XNNTanh, _unused("XNNExp"),
    _unused("XNNSin"), XNNCopy, _unused("XNNCos"),
)  # fmt: skip


@dataclass
class OutputMinMax(Table):
    """Bounds of a node's output."""

    output_min: float = scalar("f")
    output_max: float = scalar("f")


@dataclass
class XNode(Table):
    """A node, with the bounds of its output where it has some."""

    xnode_union: Any = union(*_NODES)
    debug_handle: int = scalar("I")
    output_min_max: OutputMinMax | None = table(OutputMinMax)


@dataclass
class XValue(Table):
    """A value."""

    xvalue_union: XNNTensorValue | XNNQuantizedTensorValue | None = union(XNNTensorValue, XNNQuantizedTensorValue)

    @property
    def tensor(self) -> XNNTensorValue:
        """Type and shape.

        Raises:
            FlatbufferError: It has none.
        """
        found = self.xvalue_union
        found = found.tensor_value if isinstance(found, XNNQuantizedTensorValue) else found
        if found is None:
            raise FlatbufferError("a value without a type and a shape")
        return found

    @property
    def quant_params(self) -> QuantParams | None:
        """What codes are worth; None for real values."""
        found = self.xvalue_union
        return found.quant_params if isinstance(found, XNNQuantizedTensorValue) else None


@dataclass
class ConstantDataOffset(Table):
    """Constant data: behind the graph, or named data of the program."""

    offset: int = scalar("Q")
    size: int = scalar("Q")
    named_key: str = string()


@dataclass
class XNNGraph(Table):
    """What a delegate computes."""

    version: str = string()
    xnodes: list[XNode] = tables(XNode)
    xvalues: list[XValue] = tables(XValue)
    num_externs: int = scalar("I")
    input_ids: list[int] = scalars("I")
    output_ids: list[int] = scalars("I")
    constant_buffer: None = deprecated()
    mem_buffer_sizes: None = deprecated()
    constant_data: list[ConstantDataOffset] = tables(ConstantDataOffset)


def encode_graph(graph: XNNGraph) -> bytes:
    """A graph as the data of a delegate: a header, and the FlatBuffer; constants are named data of the program."""
    payload = encode(graph, IDENTIFIER)
    start = _round_up(_HEADER.size)
    size = _round_up(len(payload))
    header = _HEADER.pack(_MAGIC, _HEADER.size, start, len(payload), start + size, 0)
    return header.ljust(start, b"\0") + payload.ljust(size, b"\0")


def decode_graph(data: bytes | memoryview) -> XNNGraph:
    """The inverse of `encode_graph`.

    Raises:
        FlatbufferError: The data is something else, or damaged.
    """
    if len(data) < _HEADER.size:
        raise FlatbufferError(f"a delegate of {len(data)} bytes has no graph of XNNPACK")
    magic, _, start, size, _, _ = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise FlatbufferError(f"the graph of XNNPACK starts with {magic!r}, not {_MAGIC!r}")
    return decode(XNNGraph, data[start : start + size], IDENTIFIER)


def _round_up(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
