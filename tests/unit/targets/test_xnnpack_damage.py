"""Programs damaged byte by byte are read, or refused by an error of ours: readers meet anything."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from helium_edge.checkpoint import open_checkpoint
from helium_edge.errors import BundleError
from helium_edge.pte.executorch_schema import BackendDelegateDataReference
from helium_edge.pte.file import PteFile
from helium_edge.quant import QuantizedStore
from helium_edge.runtime.xnnpack_program import read_xnnpack
from helium_edge.targets.xnnpack.readback import XnnpackArtifact
from helium_edge.targets.xnnpack.target import PROGRAM_FILE, XnnpackTarget
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.xnnpack import xnnpack_recipe

VALUES = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\1\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("program")
    checkpoint = open_checkpoint(str(make_checkpoint(root / "checkpoint", num_hidden_layers=1)))
    recipe = xnnpack_recipe("xnnpack-int4")
    store = QuantizedStore(checkpoint, recipe.quantization, root / "store")
    XnnpackTarget().build(store, recipe, root, lambda _: None)
    return root / PROGRAM_FILE


def places(program: Path) -> list[tuple[int, int]]:
    """First byte and length of the program and of the graphs of its delegates."""
    pte = PteFile(program)
    found = [(0, pte.segment_offset(0)[0])]
    for name in ("prefill", "decode"):
        processed = pte.plan(name).delegates[0].processed
        assert isinstance(processed, BackendDelegateDataReference)
        found.append(pte.segment_offset(processed.index))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_damage_is_refused_or_read(seed: int, program: Path, tmp_path: Path) -> None:
    draw, config = random.Random(seed), open_checkpoint(str(program.parent / "checkpoint")).config
    data, regions, damaged = bytearray(program.read_bytes()), places(program), tmp_path / "damaged.pte"
    for _ in range(5):
        copy = data.copy()
        start, length = draw.choice(regions)
        for _ in range(draw.randint(1, 5)):
            place = start + draw.randrange(length)
            value = draw.choice(VALUES) if draw.random() < 0.5 else bytes([draw.randrange(256)])
            copy[place : place + len(value)] = value
        damaged.write_bytes(copy[: draw.randrange(len(copy))] if draw.random() < 0.1 else copy)
        with contextlib.suppress(BundleError):
            read_xnnpack(damaged)
        with contextlib.suppress(BundleError):
            artifact = XnnpackArtifact(damaged, ["prefill", "decode"], config)
            artifact.differences()
            for name in artifact.names:
                artifact.get(name)
            for name in artifact.vectors:
                artifact.vector(name)
