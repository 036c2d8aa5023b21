"""`weight.bin`: the constants of a package, one blob after another, written one at a time.

A header of 64 bytes with the number of blobs, then for each blob a record of 64 bytes and its data, both at
multiples of 64. Programs refer to the record. Equal blobs are stored once: a tied head shares the embedding's
codes, and the functions of a package share everything.

Source: apple/coremltools mlmodel/src/MILBlob/Blob/StorageFormat.hpp.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

_ALIGNMENT = 64
_VERSION = 2
_SENTINEL = 0xDEADBEEF
_HEADER = struct.Struct("<II56x")
_RECORD = struct.Struct("<IIQQQ32x")
"""Sentinel, type, bytes of data, place of the data, unused bits in its last byte."""

_TYPES = {"float16": (1, 16), "int8": (4, 8), "int4": (8, 4)}
"""Code and bits of an element type."""


@dataclass(frozen=True)
class Blob:
    """A constant of the file; `offset` is that of its record, `dtype` one of float16, int8 and int4."""

    offset: int
    dtype: str
    shape: tuple[int, ...]


class WeightsFile(contextlib.AbstractContextManager["WeightsFile"]):
    """Writer of a new `weight.bin`; a context manager, and the file is complete when it closes.

    Args:
        path: The file, which must not exist yet.

    Attributes:
        path: The file.
        size: Its bytes so far.

    Raises:
        OSError: From `add` and on closing, no space is left or the disk fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("xb")
        self.size = _HEADER.size
        self._stored: dict[tuple[str, bytes], int] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file as file:
            file.truncate(self.size)
            file.seek(0)
            file.write(_HEADER.pack(len(self._stored), _VERSION))

    def add(self, parts: Iterable[torch.Tensor], dtype: str, shape: tuple[int, ...]) -> Blob:
        """Append a constant given as consecutive parts of its bytes.

        Args:
            parts: Contiguous pieces, in order, each written before the next is asked for; int4 in nibbles, the
                even index in the low one.
            dtype: Element type.
            shape: Shape of the whole.
        """
        code, bits = _TYPES[dtype]
        start = self.size
        self._file.seek(start + _RECORD.size)
        digest, length = hashlib.sha256(), 0
        for part in parts:
            data = part.contiguous().numpy().reshape(-1).view(np.uint8).data
            self._file.write(data)
            digest.update(data)
            length += len(data)
        expected = -(-math.prod(shape) * bits // 8)
        if length != expected:
            raise AssertionError(f"{length} bytes written, {expected} follow from {dtype} {shape}")
        # A blob that is there already lies after the end, and the next one is written over it.
        offset = self._stored.setdefault((dtype, digest.digest()), start)
        if offset == start:
            unused = 8 * length - math.prod(shape) * bits
            self._file.seek(start)
            self._file.write(_RECORD.pack(_SENTINEL, code, length, start + _RECORD.size, unused))
            self.size = start + _RECORD.size + -(-length // _ALIGNMENT) * _ALIGNMENT
        return Blob(offset, dtype, shape)

    def digest(self) -> bytes:
        """A hash of all that was written so far."""
        return hashlib.sha256(b"".join(digest for _, digest in self._stored)).digest()
