"""From counts to the table, and what holds a new count against it."""

from __future__ import annotations

import copy

import pytest

from arm64.counting import Count
from arm64.fit import Table, differences, fit
from arm64.jobs import CHUNK, Counted
from arm64.operators import Job

JOB = Job("", {}, {})


def counted(
    kind: str, scheme: str, rows: int, size: int, instructions: int, read: int = 0
) -> tuple[Counted, Count]:
    return Counted(kind, scheme, rows, size, JOB), Count(instructions, 0, 0, read, 0)


def costs(*found: tuple[Counted, Count]) -> dict[str, dict[str, float]]:
    return fit([job for job, _ in found], [count for _, count in found])


def test_two_sizes_give_a_slope_and_what_is_beside_it() -> None:
    found = costs(
        counted("product", "int4-g32", 1, 1000, 1300, 600),
        counted("product", "int4-g32", 1, 3000, 1900, 1700),
        counted("product", "int4-g32", CHUNK, 1000, 500 + 1000 * CHUNK // 8),
        counted("product", "int4-g32", CHUNK, 3000, 500 + 3000 * CHUNK // 8),
        counted("attention", "float32", 1, 128, 2000, 0),
        counted("attention", "float32", 1, 1024, 2000 + 896 * 434, 896 * 1024),
        counted("attention", "float32", CHUNK, 0, 3000),
        counted("attention", "float32", CHUNK, 1024, 9000),
        counted("norm", "", CHUNK, 0, 256 * CHUNK),
    )
    assert found == {
        "product int4-g32": {"decode": 0.3, "bytes": 0.55, "call": 1000, "prefill": 0.125},
        "attention float32": {
            "decode": 434, "bytes": 1024, "call": 2000 - 128 * 434, "chunk at 0": 1500, "chunk at 512": 4500,
        },
        "norm": {"prefill": 256},
    }  # fmt: skip


@pytest.mark.parametrize(("value", "lines"), [(1.029, 0), (0.971, 0), (1.031, 1), (0.969, 1)])
def test_a_figure_may_be_off_by_three_per_cent(value: float, lines: int) -> None:
    known = Table({"onnx": "onnxruntime 1"}, {"onnx": {"i8mm": {"norm": {"decode": 1.0}}}})
    found = copy.deepcopy(known)
    found.costs["onnx"]["i8mm"]["norm"]["decode"] = value
    assert len(list(differences(known, found, 0.03))) == lines


def test_what_the_table_lacks_is_told() -> None:
    found = Table({}, {"pte": {"i8mm": {"norm": {"decode": 1.0}}}})
    assert list(differences(Table({}, {}), found, 0.03)) == ["pte, i8mm, norm, decode: 1 is not in the table"]
