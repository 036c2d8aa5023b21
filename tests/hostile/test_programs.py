"""Programs changed by somebody who makes all checksums anew: whatever runs them, no command crashes or hangs.

The changes know the formats: words of the tables of a `.pte` and of the graphs inside, fields of ONNX nodes.
"""

from __future__ import annotations

import math
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.helpers.bundles import bundle_recipe, export_bundle
from tests.hostile.case import snapshot
from tests.hostile.catalogue_bundle import relist
from tests.hostile.client import Commands

MOST_MEMORY = 2 << 30
MOST_SECONDS = 60.0
"""Of processor time, of the command and of what it has started."""

COMMANDS = (
    ["verify", "b"],
    ["inspect", "b"],
    ["generate", "b", "a", "--max-new-tokens", "3"],
    ["parity", "b", "--tokens", "20", "--checkpoint", "../model"],
)


def change_pte(path: Path, draw: random.Random) -> None:
    """Change up to three words of the program, or of the graphs of its delegates."""
    data = bytearray(path.read_bytes())
    header = data.find(b"eh00")
    (size,) = struct.unpack_from("<Q", data, header + 8)
    starts = [0, *(at for at in range(0, len(data) - 4, 4) if data[at : at + 3] == b"XN0")]
    values = [0, 1, 4, 2**31 - 1, 2**31, 2**32 - 1, 0xFFFFFFF0, size - 4, draw.randrange(size)]
    for _ in range(draw.choice((1, 1, 3))):
        start = draw.choice(starts)
        at = start + 4 * draw.randrange(2, (size if start == 0 else 9000) // 4)
        if at + 4 <= len(data):
            struct.pack_into("<I", data, at, draw.choice(values))
    path.write_bytes(data)


def change_onnx(path: Path, draw: random.Random) -> None:
    """Change up to three fields of a graph."""
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    numbers = (0, -1, 1, 3, 17, 2**31, 2**40, -(2**63))

    def attribute() -> None:
        node = draw.choice([node for node in graph.node if node.attribute])
        draw.choice(list(node.attribute)).i = draw.choice(numbers)

    def wire() -> None:
        node = draw.choice(graph.node)
        if node.input:
            node.input[draw.randrange(len(node.input))] = draw.choice([*draw.choice(graph.node).output, ""])

    def dimension() -> None:
        tensor = draw.choice(graph.initializer)
        if tensor.dims:
            tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(numbers)

    def operator() -> None:
        draw.choice(graph.node).op_type = draw.choice(graph.node).op_type

    def content() -> None:
        tensor = draw.choice([tensor for tensor in graph.initializer if tensor.raw_data])
        tensor.raw_data = draw.randbytes(len(tensor.raw_data))

    changes: tuple[Callable[[], None], ...] = (attribute, attribute, wire, dimension, operator, content)
    for _ in range(draw.choice((1, 1, 3))):
        draw.choice(changes)()
    path.write_bytes(model.SerializeToString())


RECIPES = (
    ("onnx-int4", "decoder.onnx", change_onnx, 0.45),
    ("onnx-int4-portable", "decoder.onnx", change_onnx, 0.45),
    ("xnnpack-int4", "decoder.pte", change_pte, 0.1),
)
"""With the share of each: a `.pte` takes 17 times as long, nearly all of it imports of ExecuTorch."""

PARTS = 4
"""Of a recipe's programs, for several workers."""


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize(("recipe", "file", "change", "share"), RECIPES)
def test_changed_programs(
    commands: Commands,
    tiny_checkpoint: Path,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    recipe: str,
    file: str,
    change: Callable[[Path, random.Random], Any],
    share: float,
    part: int,
) -> None:
    """A part of the recipe's share of `--changed-programs`; a failure names the seed that makes it again."""
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    sound = export_bundle(tiny_checkpoint, bundle_recipe(recipe), tmp_path / "sound").folder
    first = pytestconfig.getoption("--hostile-seed")
    count = math.ceil(pytestconfig.getoption("--changed-programs") * share)
    for number in range(first + part, first + count, PARTS):
        draw = random.Random(f"{recipe} {number}")
        root = tmp_path / "box"
        shutil.copytree(sound, root / "b")
        change(root / "b" / file, draw)
        relist(root / "b")
        before = snapshot(root)
        for argv in COMMANDS:
            ending = commands.run(argv, root, limit_seconds=600.0)
            assert ending.problems() == [], (number, argv)
            assert ending.cpu_seconds + ending.child_seconds < MOST_SECONDS, (number, argv)
            assert max(ending.peak_bytes, ending.child_peak_bytes) < MOST_MEMORY, (number, argv)
        assert snapshot(root) == before, number
        shutil.rmtree(root)
