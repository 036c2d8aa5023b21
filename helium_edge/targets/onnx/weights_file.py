"""`weights.bin`: every tensor of all graphs of a bundle, once, each aligned to 4096 bytes.

Knows nothing of models. Tensors are appended and handed back as ONNX external tensors; equal bytes are stored
once (a tied head shares the embedding's codes). Runtimes map the file, which is why it is aligned.
"""

from __future__ import annotations

import contextlib
import math
import os
import zlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir as ir
import torch

ALIGNMENT = 4096
"""Page size: onnxruntime maps external data per tensor, at page boundaries."""

WEIGHTS_FILE = "weights.bin"

_SAMPLE = 1 << 16
"""Bytes of each part by which tensors are told apart before they are compared; most differ there."""

_FLUSH_BYTES = 128 << 20
"""So much is written before the disk is told to begin: all at once at the end would keep the export waiting."""


class WeightsFile(contextlib.AbstractContextManager["WeightsFile"]):
    """Writer of `weights.bin` in a fresh folder; a context manager that closes it.

    Args:
        folder: Where the file is created; it must not exist there yet.

    Raises:
        OSError: From `add` and on closing, no space is left or the disk fails.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / WEIGHTS_FILE).open("x+b")
        self._end = 0
        self._stored: dict[tuple[int, int], list[int]] = {}
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="flush")
        self._flush: Future[None] | None = None
        self._flushed = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flusher.shutdown()
        self._file.close()
        if error is None and self._flush is not None:
            self._flush.result()

    def add(
        self, name: str, parts: Iterable[torch.Tensor], dtype: ir.DataType, shape: tuple[int, ...]
    ) -> ir.ExternalTensor:
        """Append one tensor given as consecutive parts of its bytes.

        Args:
            name: Name of the initializer.
            parts: Contiguous pieces, in order; written one by one, so that none needs the whole in memory.
            dtype: ONNX element type.
            shape: Shape of the whole tensor.

        Returns:
            The tensor as graphs refer to it.
        """
        start = math.ceil(self._end / ALIGNMENT) * ALIGNMENT
        self._file.seek(start)
        checksum, length = 0, 0
        for part in parts:
            data = part.contiguous().numpy().reshape(-1).view(np.uint8).data
            self._file.write(data)
            checksum = zlib.crc32(data[:_SAMPLE], checksum)
            length += len(data)
        expected = math.ceil(math.prod(shape) * dtype.itemsize)
        if length != expected:
            raise AssertionError(f"{name}: {length} bytes written, {expected} follow from shape {shape}")
        alike = self._stored.setdefault((checksum, length), [])
        offset = next((other for other in alike if self._same(other, start, length)), start)
        if offset == start:
            alike.append(start)
            self._end = start + length
            self._begin_flush()
        else:
            self._file.truncate(self._end)
        return ir.ExternalTensor(
            WEIGHTS_FILE, offset, length, dtype, shape=ir.Shape(shape), name=name, base_dir=self._folder
        )

    def _begin_flush(self) -> None:
        """Bring what is there to the disk in another thread, unless that is still busy with what came before."""
        if self._end - self._flushed < _FLUSH_BYTES or (self._flush is not None and not self._flush.done()):
            return
        if self._flush is not None:
            self._flush.result()  # a disk that failed is told of here
        self._file.flush()
        self._flushed = self._end
        self._flush = self._flusher.submit(os.fsync, self._file.fileno())

    def _same(self, first: int, second: int, length: int) -> bool:
        """Whether two tensors of the file are the same bytes."""
        for done in range(0, length, 1 << 20):
            pair = []
            for start in (first, second):
                self._file.seek(start + done)
                pair.append(self._file.read(min(1 << 20, length - done)))
            if pair[0] != pair[1]:
                return False
        return True
