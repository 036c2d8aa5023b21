"""Programs that are built: where their data lies, and what a reader makes of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from helium_edge.errors import BundleError, HeliumEdgeError
from helium_edge.pte.builder import ProgramBuilder
from helium_edge.pte.executorch_schema import Bool, Int, KernelCall, Tensor
from helium_edge.pte.file import PteFile

WEIGHT = torch.arange(50, dtype=torch.float32)


def example(*, delegates: int = 2) -> ProgramBuilder:
    """Two methods over one constant and two pieces of named data, one of which stands for two."""
    program = ProgramBuilder()
    program.metadata({"get_size": 7, "is_fine": True, "get_ids": [3, 4]})
    codes, scales = program.named({"": 200, "scale_": 12}, lambda: [WEIGHT, torch.ones(12, dtype=torch.int8)])
    (again,) = program.named({"again_": 200}, lambda: [WEIGHT])
    for number in range(delegates):
        method = program.method(f"m{number}")
        x = method.input(torch.int64, [1, 2])
        table = method.constant(program.constant("table", 24, lambda: torch.ones(6)), torch.float32, [2, 3])
        rows = method.planned(torch.float32, [3, 5])
        method.kernel("aten::index_select", "out", [table, method.number(0), x, rows, rows])
        out = method.output(torch.float32, [1])
        method.delegate(
            "Somebody", lambda: f"{codes.key} {scales.key} {again.key}".encode(), [rows, out], {"a": b"b"}
        )
    return program


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "p.pte"
    example().write(path)
    pte = PteFile(path)
    assert [plan.name for plan in pte.program.execution_plan] == ["get_ids", "get_size", "is_fine", "m0", "m1"]
    plan = pte.plan("m1")
    keys = bytes(pte.delegate(plan)).decode().split()
    assert [key.split("_")[0] for key in keys] == [keys[0], "scale", "again"]
    assert torch.frombuffer(bytearray(pte.named(keys[0])), dtype=torch.float32).equal(WEIGHT)
    assert bytes(pte.named(keys[1])) == b"\1" * 12
    call = plan.chains[0].instructions[0].instr_args
    assert isinstance(call, KernelCall)
    assert plan.operators[call.op_index].name == "aten::index_select"
    table = pte.constant(plan, call.args[0])
    assert table is not None
    assert table.equal(torch.ones(2, 3))
    assert pte.constant(plan, plan.inputs[0]) is None
    assert plan.delegates[0].compile_specs[0].value == b"b"


def test_metadata(tmp_path: Path) -> None:
    example().write(tmp_path / "p.pte")
    pte = PteFile(tmp_path / "p.pte")
    found = {name: [v.val for v in pte.plan(name).values] for name in ("get_size", "is_fine", "get_ids")}
    assert found == {"get_size": [Int(7)], "is_fine": [Bool(True)], "get_ids": [Int(3), Int(4)]}
    assert pte.plan("get_ids").outputs == [0, 1]


def test_segments_are_aligned_and_apart(tmp_path: Path) -> None:
    path = tmp_path / "p.pte"
    example().write(path)
    pte = PteFile(path)
    places = sorted(pte.segment_offset(index) for index in range(len(pte.program.segments)))
    assert all(start % 128 == 0 for start, _ in places)
    assert all(start + size <= other for (start, size), (other, _) in pairwise(places))
    assert sum(places[-1]) == path.stat().st_size


def test_equal_data_is_stored_once(tmp_path: Path) -> None:
    program = ProgramBuilder()
    pieces = [program.named({"": 200}, lambda: [WEIGHT])[0] for _ in range(3)]
    other, *_ = program.named({"": 200}, lambda: [WEIGHT + 1])
    program.method("m").delegate("Somebody", lambda: b"x", [])
    program.write(tmp_path / "p.pte")
    assert len({piece.key for piece in pieces}) == 1
    assert other.key != pieces[0].key
    assert len(PteFile(tmp_path / "p.pte").program.named_data) == 2


def test_names_are_of_all_that_is_made_together(tmp_path: Path) -> None:
    """XNNPACK keeps packed weights by the name of the codes alone."""
    program = ProgramBuilder()
    first, _ = program.named({"": 200, "scale_": 4}, lambda: [WEIGHT, torch.tensor([1.0])])
    second, _ = program.named({"": 200, "scale_": 4}, lambda: [WEIGHT, torch.tensor([2.0])])
    program.write(tmp_path / "p.pte")
    assert first.key != second.key


@pytest.mark.parametrize("delegates", [0, 1, 2, 30])
def test_the_size_is_known_before(delegates: int, tmp_path: Path) -> None:
    program = example(delegates=delegates)
    planned = program.planned_size()
    program.write(tmp_path / "p.pte")
    assert (tmp_path / "p.pte").stat().st_size == planned


def test_the_same_program_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        example().write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_data_of_another_size_is_refused(tmp_path: Path) -> None:
    program = ProgramBuilder()
    program.named({"": 8}, lambda: [torch.ones(3)])
    with pytest.raises(HeliumEdgeError, match="data of 12 bytes where 8 were planned"):
        program.write(tmp_path / "p.pte")


def test_planned_memory(tmp_path: Path) -> None:
    method = ProgramBuilder().method("m")
    values = [
        method.planned(torch.bool, [3]),
        method.planned(torch.int64, [5]),
        method.planned(torch.float32, [2, 2]),
    ]
    tensors = [method.plan.values[value].val for value in values]
    places = [t.allocation_info.memory_offset_low for t in tensors if isinstance(t, Tensor) and t.allocation_info]
    assert places == [0, 16, 64]
    assert method.plan.non_const_buffer_sizes == [0, 80]


def test_what_a_file_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.pte"
    example().write(path)
    pte = PteFile(path)
    with pytest.raises(BundleError, match="no method m7"):
        pte.plan("m7")
    with pytest.raises(BundleError, match="refers to data nothing"):
        pte.named("nothing")
    with pytest.raises(BundleError, match="segment 99, which it does not have"):
        pte.segment(99)
    with pytest.raises(BundleError, match="has no constant 5"):
        pte.constant_place(5)
    plan = pte.plan("m0")
    tensors = [
        (n, v.val) for n, v in enumerate(plan.values) if isinstance(v.val, Tensor) and v.val.data_buffer_idx
    ]
    number, table = tensors[0]
    table.sizes = [2**20, 2**20]
    with pytest.raises(BundleError, match="constant 1 ends after its place"):
        pte.constant(plan, number)


@pytest.mark.parametrize("keep", [0, 5, 40, 300])
def test_a_file_that_is_cut_off_is_refused(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "p.pte"
    example().write(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BundleError, match=r"p\.pte: not readable as an ExecuTorch program"):
        PteFile(path)


def test_a_segment_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.pte"
    example().write(path)
    path.write_bytes(path.read_bytes()[:-10])
    pte = PteFile(path)
    with pytest.raises(BundleError, match="ends after the file"):
        pte.delegate(pte.plan("m1"))
