"""`weights.bin`: equal bytes are stored once, and only equal bytes."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
import torch

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
