"""A `.pte` as it lies on disk: the program and its segments, mapped, so that only what is looked at is read.

ExecuTorch's own reader copies every segment; with the weights of a large model that is gigabytes.

Source: pytorch/executorch exir/_serialize/_program.py, schema/program.fbs.
"""

from __future__ import annotations

import importlib
import mmap
from pathlib import Path
from typing import Any

import torch

from helium_edge.errors import BundleError
from helium_edge.runtime.executorch_library import require_executorch
from helium_edge.runtime.quiet import quiet

_INLINE = 0
_DTYPES = {
    0: torch.uint8, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.int64, 5: torch.float16,
    6: torch.float32, 7: torch.float64, 11: torch.bool, 15: torch.bfloat16,
}  # fmt: skip
"""By ExecuTorch's ScalarType."""


class PteFile:
    """A program file, mapped; it stays mapped as long as anything read from it is in use.

    Args:
        path: The `.pte`.

    Attributes:
        path: The file.
        program: ExecuTorch's `Program`, with data left in the segments.

    Raises:
        BundleError: Not readable as an ExecuTorch program.
        MissingDependencyError: executorch is not installed.
    """

    def __init__(self, path: Path) -> None:
        require_executorch("reading an ExecuTorch bundle")
        self.path = path
        try:
            with path.open("rb") as file:
                self._data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            with quiet():
                reader = importlib.import_module("executorch.exir._serialize._program")
                header = reader._get_extended_header(self._data)
                size = header.program_size if header else len(self._data)
                self._base = header.segment_base_offset if header else 0
                self.program = reader._flatbuffer_to_program(self._data[:size])
        except MemoryError:
            raise
        except Exception as error:  # the reader raises whatever a damaged file makes it meet
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise BundleError(
                f"{path.name}: not readable as an ExecuTorch program: {first}",
                hint="`helium-edge verify` tells whether the file is damaged",
            ) from error
        self._named = {entry.key: entry.segment_index for entry in self.program.named_data or []}

    def segment_offset(self, index: int) -> tuple[int, int]:
        """Place of a segment in the file: first byte and number of bytes."""
        segment = self.program.segments[index]
        return self._base + int(segment.offset), int(segment.size)

    def segment(self, index: int) -> memoryview:
        """The bytes of a segment.

        Raises:
            BundleError: There is no such segment, or it ends after the file.
        """
        if not 0 <= index < len(self.program.segments):
            raise BundleError(f"{self.path.name}: the program refers to segment {index}, which it does not have")
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
        return int(self._named[key])

    def named(self, key: str) -> memoryview:
        """Named data, as delegates refer to their weights."""
        return self.segment(self.named_segment(key))

    def plan(self, method: str) -> Any:
        """The execution plan of a method.

        Raises:
            BundleError: No such method.
        """
        for plan in self.program.execution_plan:
            if plan.name == method:
                return plan
        raise BundleError(f"{self.path.name}: no method {method}")

    def delegate(self, plan: Any, index: int = 0) -> memoryview:
        """What a backend made of its part of a method."""
        processed = plan.delegates[index].processed
        if int(processed.location) == _INLINE:
            return memoryview(bytes(self.program.backend_delegate_data[processed.index].data))
        return self.segment(processed.index)

    def constant(self, plan: Any, value: int) -> torch.Tensor | None:
        """The constant behind a value of a method, or None where it is no constant tensor; a copy."""
        tensor = plan.values[value].val
        index = getattr(tensor, "data_buffer_idx", 0)
        if not index:
            return None
        dtype = _DTYPES[int(tensor.scalar_type)]
        sizes = list(tensor.sizes)
        count = 1
        for size in sizes:
            count *= size
        start, _ = self.constant_place(index)
        data = bytearray(self._data[start : start + count * dtype.itemsize])
        return torch.frombuffer(data, dtype=dtype).view(sizes)

    def constant_bytes(self, index: int) -> bytes:
        """A constant of the program with the padding after it; a copy."""
        start, end = self.constant_place(index)
        return bytes(self._data[start:end])

    def constant_place(self, index: int) -> tuple[int, int]:
        """First byte in the file of a constant, and of what follows it.

        Raises:
            BundleError: The constants do not lie in a segment.
        """
        table = self.program.constant_segment
        if table is None or index >= len(table.offsets):
            raise BundleError(f"{self.path.name}: the program has no constant {index}")
        start, size = self.segment_offset(table.segment_index)
        end = table.offsets[index + 1] if index + 1 < len(table.offsets) else size
        return start + int(table.offsets[index]), start + int(end)
