"""docs/faults.md shows the table that the tests go through."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.catalogue import LEVELS, ONNX, XNNPACK, Fault

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
TWELVE = (
    "half-split rope", "swapped nibbles", "transposed scales", "scale off", "cache one slot off", "stale cache",
    "mask one long", "eps 1e-5", "head dropped", "gate and up swapped", "wrong theta", "last index off",
    "padding leaks",
)  # fmt: skip
"""What every runtime must be tried with."""


def table(faults: Sequence[Fault]) -> str:
    """Markdown, a row for each fault."""
    lines = ["| fault | " + " | ".join([*LEVELS, "named"]) + " |", "|---" * (len(LEVELS) + 2) + "|"]
    for fault in faults:
        where = f"`{fault.bundle}`{', static graphs' if fault.static else ''}"
        cells = ["" if colour == "any" else colour for colour in fault.expected.values()]
        lines.append("| " + " | ".join([f"{fault.title} ({where})", *cells, named(fault)]) + " |")
    return "\n".join(lines)


def named(fault: Fault) -> str:
    """What localisation says."""
    if fault.place is None:
        return "nothing: the graphs are right"
    layer, op = fault.place
    return f"`{op}`" if layer is None else f"layer {layer}, `{op}`"


@pytest.mark.parametrize("faults", [ONNX, XNNPACK], ids=["onnx", "xnnpack"])
def test_every_runtime_is_tried_with_every_fault(faults: Sequence[Fault]) -> None:
    assert set(TWELVE) <= {fault.plant for fault in faults}
    assert len({fault.id for fault in faults}) == len(faults)


@pytest.mark.parametrize("fault", [*ONNX, *XNNPACK], ids=lambda fault: fault.id)
def test_a_fault_is_red_somewhere(fault: Fault) -> None:
    assert "red" in fault.expected.values()
    assert fault.expected["L2"] == "green"  # it never runs the artifact


def test_every_fault_is_tried_in_the_default_tier() -> None:
    """What a developer runs before a commit has the teeth; docs/testing.md says so."""
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", str(folder)]
    listed = subprocess.run(command, cwd=folder.parents[1], capture_output=True, text=True, check=True).stdout
    for fault in [*ONNX, *XNNPACK]:
        assert f"test_a_fault_is_caught[{fault.id}]" in listed


@pytest.mark.parametrize("faults", [ONNX, XNNPACK], ids=["onnx", "xnnpack"])
def test_the_document_shows_the_table(faults: Sequence[Fault]) -> None:
    assert table(faults) in DOCUMENT.read_text(encoding="utf-8")
