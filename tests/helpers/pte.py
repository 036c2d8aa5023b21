"""Edits `.pte` files: constants, and the graphs of delegates."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from helium_edge.pte.builder import HEADER, HEADER_PLACE, MAGIC
from helium_edge.pte.executorch_schema import IDENTIFIER, DataSegment, ExecutionPlan, Program, Tensor
from helium_edge.pte.file import PteFile
from helium_edge.pte.flatbuffer import encode
from helium_edge.pte.xnnpack_schema import XNNGraph, decode_graph, encode_graph

_ALIGNMENT = 128


class EditedPte:
    """A `.pte` in memory; `save` writes it again.

    Attributes:
        program: What the file says, to be edited.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        pte = PteFile(path)
        self.program: Program = pte.program
        self._segments = [bytes(pte.segment(index)) for index in range(len(pte.program.segments))]

    def plan(self, method: str) -> ExecutionPlan:
        """A method."""
        return next(plan for plan in self.program.execution_plan if plan.name == method)

    def edit_graph(self, method: str, edit: Callable[[XNNGraph], None]) -> None:
        """Change the graph of a method's delegate."""
        processed = self.plan(method).delegates[0].processed
        assert processed is not None
        graph = decode_graph(self._segments[processed.index])
        edit(graph)
        self._segments[processed.index] = encode_graph(graph)

    def set_constant(self, method: str, value: int, data: bytes) -> None:
        """Give a value of a method a constant of its own."""
        tensor, table = self.plan(method).values[value].val, self.program.constant_segment
        assert isinstance(tensor, Tensor)
        assert table is not None
        held = self._segments[table.segment_index].ljust(
            -(-len(self._segments[table.segment_index]) // 16) * 16, b"\0"
        )
        tensor.data_buffer_idx = len(table.offsets)
        table.offsets.append(len(held))
        self._segments[table.segment_index] = held + data

    def save(self) -> None:
        """Write the file."""
        self.program.segments = self._placed()
        data = encode(self.program, IDENTIFIER)
        size = HEADER.size + len(data)
        base = -(-size // _ALIGNMENT) * _ALIGNMENT
        (root,) = struct.unpack_from("<I", data)
        last = self.program.segments[-1]
        out = bytearray(struct.pack("<I", root + HEADER.size) + data[4:HEADER_PLACE])
        out += HEADER.pack(MAGIC, HEADER.size, size, base, last.offset + last.size) + data[HEADER_PLACE:]
        for place, segment in zip(self.program.segments, self._segments, strict=True):
            out = out.ljust(base + place.offset, b"\0") + segment
        self.path.write_bytes(out)

    def _placed(self) -> list[DataSegment]:
        places, end = [], 0
        for segment in self._segments:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            places.append(DataSegment(start, len(segment)))
            end = start + len(segment)
        return places
