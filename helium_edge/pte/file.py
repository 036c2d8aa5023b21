"""A `.pte` as it lies on disk: the program and its segments, mapped, so that only what is looked at is read.

Source: pytorch/executorch exir/_serialize/_program.py, schema/program.fbs.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

import torch

from helium_edge.documents import first_line
from helium_edge.errors import BundleError
from helium_edge.pte.builder import DTYPES, HEADER, HEADER_PLACE, MAGIC
from helium_edge.pte.executorch_schema import IDENTIFIER, DataLocation, ExecutionPlan, Program, Tensor
from helium_edge.pte.flatbuffer import decode


class PteFile:
    """A program file, mapped; it stays mapped as long as anything read from it is in use.

    Args:
        path: The `.pte`.

    Attributes:
        path: The file.
        program: ExecuTorch's `Program`, with data left in the segments.

    Raises:
        BundleError: Not readable as an ExecuTorch program.
        OSError: Not readable at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            size, self._base = len(self._data), 0
            if self._data[HEADER_PLACE:][: len(MAGIC)] == MAGIC:
                _, _, size, self._base, _ = HEADER.unpack_from(self._data, HEADER_PLACE)
            self.program = decode(Program, self._data[:size], IDENTIFIER)
        except (ValueError, struct.error) as error:  # an empty file cannot be mapped
            raise BundleError(
                f"{path.name}: not readable as an ExecuTorch program: {first_line(error)}",
                hint="`helium-edge verify` tells whether the file is damaged",
            ) from error
        self._named = {entry.key: entry.segment_index for entry in self.program.named_data}

    def segment_offset(self, index: int) -> tuple[int, int]:
        """Place of a segment in the file: first byte and number of bytes.

        Raises:
            BundleError: There is no such segment.
        """
        if not 0 <= index < len(self.program.segments):
            raise BundleError(f"{self.path.name}: the program refers to segment {index}, which it does not have")
        segment = self.program.segments[index]
        return self._base + segment.offset, segment.size

    def segment(self, index: int) -> memoryview:
        """The bytes of a segment.

        Raises:
            BundleError: There is no such segment, or it ends after the file.
        """
        start, size = self.segment_offset(index)
        if start + size > len(self._data):
            raise BundleError(f"{self.path.name}: segment {index} ends after the file")
        return self._data[start : start + size]

    def named_segment(self, key: str) -> int:
        """Segment of named data.

        Raises:
            BundleError: No data of that name.
        """
        if key not in self._named:
            raise BundleError(f"{self.path.name}: the program refers to data {key[:16]}, which it does not have")
        return self._named[key]

    def named(self, key: str) -> memoryview:
        """Named data, as delegates refer to their weights."""
        return self.segment(self.named_segment(key))

    def plan(self, method: str) -> ExecutionPlan:
        """The execution plan of a method.

        Raises:
            BundleError: No such method.
        """
        for plan in self.program.execution_plan:
            if plan.name == method:
                return plan
        raise BundleError(f"{self.path.name}: no method {method}")

    def delegate(self, plan: ExecutionPlan, index: int = 0) -> memoryview:
        """What a backend made of its part of a method.

        Raises:
            BundleError: The file does not have it.
        """
        processed = plan.delegates[index].processed
        if processed is None:
            raise BundleError(f"{self.path.name}, method {plan.name}: a delegate without data")
        if processed.location == DataLocation.SEGMENT:
            return self.segment(processed.index)
        inline = self.program.backend_delegate_data
        if processed.index >= len(inline):
            place = f"delegate {processed.index} of {len(inline)}"
            raise BundleError(f"{self.path.name}: the program refers to {place}")
        return memoryview(inline[processed.index].data)

    def constant(self, plan: ExecutionPlan, value: int) -> torch.Tensor | None:
        """The constant behind a value of a method, or None where it is no constant tensor; a copy.

        Raises:
            BundleError: The file does not have it.
        """
        tensor = plan.values[value].val
        if not isinstance(tensor, Tensor) or not tensor.data_buffer_idx:
            return None
        if tensor.scalar_type not in DTYPES:
            raise BundleError(f"{self.path.name}: a constant of the unknown type {tensor.scalar_type}")
        dtype = DTYPES[tensor.scalar_type]
        start, end = self.constant_place(tensor.data_buffer_idx)
        size = math.prod(tensor.sizes) * dtype.itemsize
        if not 0 <= size <= min(end, len(self._data)) - start:
            raise BundleError(f"{self.path.name}: constant {tensor.data_buffer_idx} ends after its place")
        if not size:
            return torch.empty(tensor.sizes, dtype=dtype)
        return torch.frombuffer(bytearray(self._data[start : start + size]), dtype=dtype).view(tensor.sizes)

    def constant_place(self, index: int) -> tuple[int, int]:
        """First byte in the file of a constant, and of what follows it.

        Raises:
            BundleError: The constants do not lie in a segment.
        """
        table = self.program.constant_segment
        if table is None or not 0 <= index < len(table.offsets):
            raise BundleError(f"{self.path.name}: the program has no constant {index}")
        start, size = self.segment_offset(table.segment_index)
        end = table.offsets[index + 1] if index + 1 < len(table.offsets) else size
        return start + table.offsets[index], start + end
