"""`weights.bin`: every tensor of all graphs of a bundle, once, each aligned to 4096 bytes.

Knows nothing of models. Tensors are appended and handed back as ONNX external tensors; equal bytes are stored
once (a tied head shares the embedding's codes). Runtimes map the file, which is why it is aligned.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir as ir
import torch

ALIGNMENT = 4096
"""Page size: onnxruntime maps external data per tensor, at page boundaries."""

WEIGHTS_FILE = "weights.bin"


class WeightsFile(contextlib.AbstractContextManager["WeightsFile"]):
    """Writer of `weights.bin` in a fresh folder; a context manager that closes it.

    Args:
        folder: Where the file is created; it must not exist there yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / WEIGHTS_FILE).open("xb")
        self._end = 0
        self._stored: dict[tuple[str, int], int] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

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
        digest, length = hashlib.sha256(), 0
        for part in parts:
            data = part.contiguous().numpy().reshape(-1).view(np.uint8).data
            self._file.write(data)
            digest.update(data)
            length += len(data)
        expected = math.ceil(math.prod(shape) * dtype.itemsize)
        if length != expected:
            raise AssertionError(f"{name}: {length} bytes written, {expected} follow from shape {shape}")
        offset = self._stored.setdefault((digest.hexdigest(), length), start)
        if offset == start:
            self._end = start + length
        else:
            self._file.truncate(self._end)
        return ir.ExternalTensor(
            WEIGHTS_FILE, offset, length, dtype, shape=ir.Shape(shape), name=name, base_dir=self._folder
        )
