"""`weights.bin`: equal bytes are stored once, and only equal bytes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from helium_edge.targets.onnx import weights_file
from helium_edge.targets.onnx.weights_file import ALIGNMENT, WEIGHTS_FILE, WeightsFile

SIZE = 3 << 20
"""More than is compared at a time, and than the sample by which tensors are told apart."""


@pytest.mark.parametrize("at", [0, 100_000, SIZE - 1])
def test_equal_tensors_are_stored_once(tmp_path: Path, at: int) -> None:
    weight = torch.arange(SIZE, dtype=torch.int64).to(torch.uint8)
    other = weight.clone()
    other[at] += 1
    with WeightsFile(tmp_path) as file:
        first, changed, again, last = (
            file.add(name, [part], ir.DataType.UINT8, (SIZE,))
            for name, part in (("a", weight), ("b", other), ("c", weight.clone()), ("d", other.clone()))
        )
    assert (again.offset, last.offset) == (first.offset, changed.offset) == (0, SIZE)
    assert SIZE % ALIGNMENT == 0
    data = (tmp_path / WEIGHTS_FILE).read_bytes()
    assert data == weight.numpy().tobytes() + other.numpy().tobytes()


def test_the_disk_is_kept_busy_while_weights_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(weights_file, "_FLUSH_BYTES", 10)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    with WeightsFile(tmp_path) as file:
        file.add("a", [torch.arange(9, dtype=torch.uint8)], ir.DataType.UINT8, (9,))
        assert not synced
        file.add("b", [torch.arange(8, dtype=torch.uint8)], ir.DataType.UINT8, (8,))
    assert synced == [ALIGNMENT + 8]


def test_a_disk_that_fails_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(weights_file, "_FLUSH_BYTES", 1)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"), WeightsFile(tmp_path) as file:
        file.add("a", [torch.arange(9, dtype=torch.uint8)], ir.DataType.UINT8, (9,))
