"""`weight.bin`: what coremltools' own writer writes, and what its reader reads."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helium_edge.mlpackage.weights_file import WeightsFile
from helium_edge.quant.packing import pack_nibbles
from helium_edge.runtime.quiet import quiet

RNG = np.random.default_rng(0)
HALF = RNG.standard_normal((5, 7)).astype(np.float16)
BYTES = RNG.integers(-128, 128, (3, 50)).astype(np.int8)
NIBBLES = RNG.integers(-8, 8, (3, 33)).astype(np.int8)


def nibbles(values: np.ndarray[Any, Any]) -> torch.Tensor:
    return pack_nibbles(torch.from_numpy(values.reshape(-1)).view(torch.uint8) & 15)


def write(path: Path) -> list[int]:
    with WeightsFile(path) as file:
        return [
            file.add([torch.from_numpy(HALF[:2]), torch.from_numpy(HALF[2:])], "float16", HALF.shape).offset,
            file.add([torch.from_numpy(BYTES)], "int8", BYTES.shape).offset,
            file.add([nibbles(NIBBLES)], "int4", NIBBLES.shape).offset,
        ]


@pytest.mark.skipif(importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed")
def test_it_is_the_file_of_coremltools(tmp_path: Path) -> None:
    with quiet():
        from coremltools.libmilstoragepython import _BlobStorageReader, _BlobStorageWriter
    writer = _BlobStorageWriter(str(tmp_path / "theirs"))
    expected = [
        writer.write_fp16_data(HALF.reshape(-1).view(np.uint16)),
        writer.write_int8_data(BYTES.reshape(-1)),
        writer.write_int4_data(NIBBLES.reshape(-1)),
    ]
    del writer  # which completes the file
    assert write(tmp_path / "ours") == expected
    ours, theirs = (tmp_path / "ours").read_bytes(), (tmp_path / "theirs").read_bytes()
    assert ours == theirs.ljust(len(ours), b"\0")
    assert len(ours) - len(theirs) < 64
    reader = _BlobStorageReader(str(tmp_path / "ours"))
    assert np.array_equal(reader.read_int4_data(expected[2]), NIBBLES.reshape(-1))


def test_equal_blobs_are_stored_once(tmp_path: Path) -> None:
    with WeightsFile(tmp_path / "file") as file:
        first = file.add([torch.zeros(40, dtype=torch.int8)], "int8", (4, 10))
        other = file.add([torch.ones(40, dtype=torch.int8)], "int8", (40,))
        size = file.size
        again = file.add([torch.zeros(20, dtype=torch.int8)] * 2, "int8", (40,))
        assert (again.offset, again.shape, file.size) == (first.offset, (40,), size)
        # Of another type they are another blob, even where the bytes are the same.
        half = file.add([torch.zeros(20, dtype=torch.float16)], "float16", (20,))
        assert len({first.offset, other.offset, half.offset}) == 3
    content = (tmp_path / "file").read_bytes()
    assert int.from_bytes(content[:4], "little") == 3
    assert len(content) == file.size


def test_the_digest_tells_contents_apart(tmp_path: Path) -> None:
    digests = set()
    for index, values in enumerate(([0, 1], [1, 0], [0, 1])):
        with WeightsFile(tmp_path / str(index)) as file:
            for value in values:
                file.add([torch.full((4,), value, dtype=torch.int8)], "int8", (4,))
        digests.add(file.digest())
    assert len(digests) == 2


def test_a_wrong_size_is_noticed(tmp_path: Path) -> None:
    with (
        WeightsFile(tmp_path / "file") as file,
        pytest.raises(AssertionError, match="39 bytes written, 40 follow"),
    ):
        file.add([torch.zeros(39, dtype=torch.int8)], "int8", (4, 10))
