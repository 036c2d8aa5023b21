"""Builds a `.pte`: methods of values, kernel calls and delegate calls, and data that is written as it is made.

A program is described first. Only when it is written is data asked for, one piece at a time: the file never
lies in memory. Pieces are named by what they hold, which delegates refer to, so the data of a delegate (its graph)
is asked for after them.

Layout of the file: the FlatBuffer of `executorch_schema.Program` with an extended header, then segments: named
data, constants of the program (one segment), data of delegates.

Source: pytorch/executorch 1.5.1, exir/_serialize/_program.py, runtime/executor/program.cpp and
schema/extended_header.h.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from helium_edge.errors import HeliumEdgeError
from helium_edge.pte import executorch_schema as schema
from helium_edge.pte.executorch_schema import DataLocation, ScalarType
from helium_edge.pte.flatbuffer import encode

Data = bytes | memoryview
Metadata = bool | int | list[int]
"""What a method without inputs returns."""

HEADER = struct.Struct("<4sIQQQ")
"""Extended header: magic, length, size of the FlatBuffer, start of the segments, their size."""
MAGIC = b"eh00"
HEADER_PLACE = 8
"""After the offset of the root and the file identifier."""

_SEGMENT_ALIGNMENT = 128
_DATA_ALIGNMENT = 16
_KEY_LENGTH = 64
"""Of a sha256 in hexadecimal digits."""
_MARGIN = 128
"""Bytes that tables may take more once they are known: one that has no number to store has a layout of its own."""
_FAR = 1 << 40
"""Stands for a place or a size that is not known yet; 0 would not be stored."""
_DTYPES = {
    torch.uint8: ScalarType.BYTE, torch.int8: ScalarType.CHAR, torch.int16: ScalarType.SHORT,
    torch.int32: ScalarType.INT, torch.int64: ScalarType.LONG, torch.float16: ScalarType.HALF,
    torch.float32: ScalarType.FLOAT, torch.float64: ScalarType.DOUBLE, torch.bool: ScalarType.BOOL,
    torch.bfloat16: ScalarType.BFLOAT16,
}  # fmt: skip
DTYPES = {int(number): dtype for dtype, number in _DTYPES.items()}
"""Types of elements by ExecuTorch's number."""


@dataclass(eq=False)
class NamedData:
    """A piece of data that delegates find by its name.

    Attributes:
        size: In bytes.
        prefix: Of its name.
        key: Its name; known once it is written.
    """

    size: int
    prefix: str
    key: str = ""


@dataclass(eq=False)
class _Named:
    """Pieces that are made together; their names are the hash of all of them."""

    pieces: list[NamedData]
    load: Callable[[], Sequence[Tensor]]


@dataclass(eq=False)
class _Constant:
    """A constant of the program."""

    size: int
    load: Callable[[], Tensor]
    offset: int = 0


@dataclass
class MethodBuilder:
    """One method: values by number, and calls in order.

    Attributes:
        plan: What is built.
        delegates: Gives the data of each delegate.
    """

    plan: schema.ExecutionPlan
    delegates: list[Callable[[], Data]] = field(default_factory=list)

    def input(self, dtype: torch.dtype, shape: Sequence[int]) -> int:
        """A tensor that the host hands in, where it lies; inputs are numbered in the order of these calls."""
        value = self._tensor(dtype, shape)
        self.plan.inputs.append(value)
        return value

    def output(self, dtype: torch.dtype, shape: Sequence[int]) -> int:
        """A tensor that the method returns, in memory of its own: `execute` of Java and of Swift gives it none."""
        value = self.planned(dtype, shape)
        self.plan.outputs.append(value)
        return value

    def view(self, dtype: torch.dtype, shape: Sequence[int]) -> int:
        """A tensor over the memory of another, which `executorch_prim::et_view` gives."""
        return self._tensor(dtype, shape)

    def planned(self, dtype: torch.dtype, shape: Sequence[int]) -> int:
        """A tensor of the method's own memory; each has a place to itself."""
        value = self._tensor(dtype, shape)
        low = self.plan.non_const_buffer_sizes[1]
        tensor = self.plan.values[value].val
        assert isinstance(tensor, schema.Tensor)
        tensor.allocation_info = schema.AllocationDetails(1, low & 0xFFFFFFFF, low >> 32)
        self.plan.non_const_buffer_sizes[1] = _round_up(low + dtype.itemsize * math.prod(shape), _DATA_ALIGNMENT)
        return value

    def constant(self, index: int, dtype: torch.dtype, shape: Sequence[int]) -> int:
        """A constant of the program as a tensor; see `ProgramBuilder.constant`."""
        value = self._tensor(dtype, shape)
        tensor = self.plan.values[value].val
        assert isinstance(tensor, schema.Tensor)
        tensor.data_buffer_idx = index
        return value

    def _tensor(self, dtype: torch.dtype, shape: Sequence[int]) -> int:
        order = bytes(range(len(shape)))
        return self._value(schema.Tensor(scalar_type=_DTYPES[dtype], sizes=list(shape), dim_order=order))

    def number(self, value: bool | int | None) -> int:
        """An argument of a kernel: an integer, a truth value, or nothing."""
        if value is None:
            return self._value(schema.Null())
        return self._value(schema.Bool(value) if isinstance(value, bool) else schema.Int(value))

    def numbers(self, values: Sequence[int]) -> int:
        """A list of integers as an argument of a kernel."""
        return self._value(schema.IntList([self.number(value) for value in values]))

    def _value(self, value: schema.Value) -> int:
        self.plan.values.append(schema.EValue(value))
        return len(self.plan.values) - 1

    def kernel(self, name: str, overload: str, args: Sequence[int]) -> None:
        """Call an operator.

        Args:
            name: With its namespace.
            overload: Its variant.
            args: Values in the order of its signature; a result stands twice at the end, as argument and as what
                is returned.
        """
        operator = schema.Operator(name, overload)
        if operator not in self.plan.operators:
            self.plan.operators.append(operator)
        self._call(schema.KernelCall(self.plan.operators.index(operator), list(args)))

    def delegate(
        self,
        backend: str,
        make: Callable[[], Data],
        args: Sequence[int],
        specs: Mapping[str, bytes] | None = None,
    ) -> None:
        """Call a part that a backend runs.

        Args:
            backend: Its name.
            make: Gives the data of that part, called when all named data is written.
            args: Inputs and then outputs, as the backend expects them.
            specs: Notes for the backend.
        """
        notes = [schema.CompileSpec(key, value) for key, value in (specs or {}).items()]
        self.delegates.append(make)
        self.plan.delegates.append(schema.BackendDelegate(backend, None, notes))
        self._call(schema.DelegateCall(len(self.plan.delegates) - 1, list(args)))

    def _call(self, call: schema.Call) -> None:
        self.plan.chains[0].instructions.append(schema.Instruction(call))


@dataclass
class _Layout:
    """Where everything lies behind the FlatBuffer.

    Attributes:
        segments: First byte and size of each.
        named: Segment of each name.
        constants: Segment of the program's constants; None where it has none.
        delegates: Segments of the delegates of each method.
    """

    segments: list[tuple[int, int]] = field(default_factory=list)
    named: dict[str, int] = field(default_factory=dict)
    constants: int | None = None
    delegates: dict[str, list[int]] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The byte behind the last segment."""
        return sum(self.segments[-1]) if self.segments else 0

    @property
    def next(self) -> int:
        """Where another segment starts."""
        return _round_up(self.end, _SEGMENT_ALIGNMENT)

    def add(self, size: int) -> int:
        """Take the next place; gives the number of the segment."""
        self.segments.append((self.next, size))
        return len(self.segments) - 1


class ProgramBuilder:
    """One program; see the module."""

    def __init__(self) -> None:
        self._methods: dict[str, MethodBuilder] = {}
        self._metadata: dict[str, Metadata] = {}
        self._constants: list[_Constant] = []
        self._constant_index: dict[str, int] = {}
        self._named: list[_Named] = []

    def method(self, name: str) -> MethodBuilder:
        """A new method."""
        plan = schema.ExecutionPlan(
            name=name, container_meta_type=schema.ContainerMetadata(), chains=[schema.Chain()],
            non_const_buffer_sizes=[0, 0],
        )  # fmt: skip
        self._methods[name] = MethodBuilder(plan)
        return self._methods[name]

    def metadata(self, facts: Mapping[str, Metadata]) -> None:
        """Methods without inputs that return a fact each."""
        self._metadata |= facts

    def constant(self, name: str, size: int, load: Callable[[], Tensor]) -> int:
        """A constant that kernels or delegates take as a tensor.

        Args:
            name: Of ours; the same name is the same constant.
            size: In bytes.
            load: Gives it, when it is written.

        Returns:
            Its number, for `MethodBuilder.constant`.
        """
        if name not in self._constant_index:
            self._constants.append(_Constant(size, load))
            self._constant_index[name] = len(self._constants)  # 0 is for tensors that are not constant
        return self._constant_index[name]

    def named(self, sizes: Mapping[str, int], load: Callable[[], Sequence[Tensor]]) -> list[NamedData]:
        """Data that delegates find by name, made together when it is written.

        The names are a hash of all of it, behind a prefix: XNNPACK's cache of packed weights, which all programs
        of a process share, knows a weight by the name of its codes alone, and equal codes may have other scales.

        Args:
            sizes: Bytes of each piece, by the prefix of its name.
            load: Gives the pieces in that order.
        """
        made = _Named([NamedData(size, prefix) for prefix, size in sizes.items()], load)
        self._named.append(made)
        return made.pieces

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            HeliumEdgeError: Data has another size than was said.
            OSError: It cannot be written.
        """
        room = self._room()
        base = _round_up(room, _SEGMENT_ALIGNMENT)
        with path.open("wb") as file:
            layout = self._write_segments(file, base)
            file.truncate(base + layout.end)
            program = encode(self._program(layout), schema.IDENTIFIER)
            size = HEADER.size + len(program)
            if size > room:
                raise HeliumEdgeError(f"{path.name}: the program takes {size} bytes, and room was left for {room}")
            file.seek(0)
            # The offset of the root counts from the start of the file, in front of the header.
            (root,) = struct.unpack_from("<I", program)
            file.write(struct.pack("<I", root + HEADER.size) + program[4:HEADER_PLACE])
            file.write(HEADER.pack(MAGIC, HEADER.size, size, base if layout.segments else 0, layout.end))
            file.write(program[HEADER_PLACE:])

    def planned_size(self) -> int:
        """Bytes of the file, without making its data; equal data, which is stored once, counts each time."""
        layout = _Layout()
        for group in self._named:
            for piece in group.pieces:
                piece.key = piece.prefix + "0" * _KEY_LENGTH
                layout.add(piece.size)
        if self._constants:
            layout.add(sum(_round_up(constant.size, _DATA_ALIGNMENT) for constant in self._constants))
        for method in self._methods.values():
            for make in method.delegates:
                layout.add(len(make()))
        return _round_up(self._room(), _SEGMENT_ALIGNMENT) + layout.end

    def _room(self) -> int:
        """Bytes to leave for the FlatBuffer, which is written last.

        Names have one length for each prefix and stand in one order, so that it is known before they are.
        """
        return HEADER.size + len(encode(self._program(self._longest()), schema.IDENTIFIER)) + _MARGIN

    def _longest(self) -> _Layout:
        """A layout of as many segments as there can be, in places that are not known yet."""
        pieces = [piece for group in self._named for piece in group.pieces]
        delegates = {name: len(method.delegates) for name, method in self._methods.items()}
        layout = _Layout()
        layout.segments = [(_FAR, _FAR)] * (len(pieces) + bool(self._constants) + sum(delegates.values()))
        layout.named = {f"{index:0{len(piece.prefix) + _KEY_LENGTH}}": 1 for index, piece in enumerate(pieces)}
        layout.constants = 1 if self._constants else None
        layout.delegates = {name: [1] * count for name, count in delegates.items()}
        return layout

    def _write_segments(self, file: BinaryIO, base: int) -> _Layout:
        layout = _Layout()
        for group in self._named:
            data = [_bytes(piece) for piece in group.load()]
            digest = hashlib.sha256()
            for each in data:
                digest.update(each)
            for piece, each in zip(group.pieces, data, strict=True):
                piece.key = piece.prefix + digest.hexdigest()
                if piece.key not in layout.named:
                    layout.named[piece.key] = layout.add(piece.size)
                    _write_at(file, base + layout.segments[-1][0], each, piece.size)
        if self._constants:
            start, at = base + layout.next, 0
            for constant in self._constants:
                constant.offset = at
                _write_at(file, start + at, _bytes(constant.load()), constant.size)
                at = _round_up(at + constant.size, _DATA_ALIGNMENT)
            layout.constants = layout.add(at)
        for name, method in self._methods.items():
            layout.delegates[name] = []
            for make in method.delegates:
                made = make()
                layout.delegates[name].append(layout.add(len(made)))
                _write_at(file, base + layout.segments[-1][0], memoryview(made), len(made))
        return layout

    def _program(self, layout: _Layout) -> schema.Program:
        plans = [method.plan for method in self._methods.values()]
        plans += [_metadata_plan(name, value) for name, value in self._metadata.items()]
        for name, method in self._methods.items():
            for delegate, index in zip(method.plan.delegates, layout.delegates[name], strict=True):
                delegate.processed = schema.BackendDelegateDataReference(DataLocation.SEGMENT, index)
        offsets = [0, *(constant.offset for constant in self._constants)]
        return schema.Program(
            execution_plan=sorted(plans, key=lambda plan: plan.name),
            segments=[schema.DataSegment(offset, size) for offset, size in layout.segments],
            constant_segment=schema.SubsegmentOffsets(layout.constants or 0, offsets),
            named_data=[schema.NamedData(key, index) for key, index in layout.named.items()],
        )


def _metadata_plan(name: str, value: Metadata) -> schema.ExecutionPlan:
    values: list[schema.Value] = [
        schema.Bool(each) if isinstance(each, bool) else schema.Int(each)
        for each in (value if isinstance(value, list) else [value])
    ]
    return schema.ExecutionPlan(
        name=name, container_meta_type=schema.ContainerMetadata(), values=[schema.EValue(each) for each in values],
        outputs=list(range(len(values))), chains=[schema.Chain()], non_const_buffer_sizes=[0],
    )  # fmt: skip


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def _write_at(file: BinaryIO, place: int, data: memoryview, size: int) -> None:
    if len(data) != size:
        raise HeliumEdgeError(f"data of {len(data)} bytes where {size} were planned")
    file.seek(place)
    file.write(data)


def _round_up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
