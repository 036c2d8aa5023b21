"""FlatBuffers: what is written is read again, and what is damaged is refused."""

from __future__ import annotations

import contextlib
import random

import flatbuffers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_edge.pte.executorch_schema import (
    IDENTIFIER,
    AllocationDetails,
    BackendDelegate,
    BackendDelegateDataReference,
    Bool,
    Chain,
    CompileSpec,
    DataSegment,
    EValue,
    ExecutionPlan,
    Instruction,
    Int,
    IntList,
    KernelCall,
    NamedData,
    Null,
    Operator,
    Program,
    String,
    Tensor,
)
from helium_edge.pte.flatbuffer import FlatbufferError, decode, encode

_int32, _uint64 = st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**64 - 1)
_tensors = st.builds(
    Tensor, st.integers(0, 100), sizes=st.lists(_int32, max_size=4), dim_order=st.binary(max_size=4),
    requires_grad=st.booleans(),
    allocation_info=st.none() | st.builds(AllocationDetails, st.integers(0, 2**32 - 1)),
)  # fmt: skip
_members = [
    st.none(), st.just(Null()), st.builds(Int, st.integers(-(2**63), 2**63 - 1)), st.builds(Bool, st.booleans()),
    st.builds(String, st.text()), st.builds(IntList, st.lists(st.integers(-(2**63), 2**63 - 1))), _tensors,
]  # fmt: skip
_values = st.builds(EValue, st.one_of(_members))
_calls = st.builds(Chain, instructions=st.lists(st.builds(Instruction, st.builds(KernelCall, _int32))))
_delegates = st.builds(
    BackendDelegate, st.text(), st.none() | st.builds(BackendDelegateDataReference, st.integers(0, 1)),
    st.lists(st.builds(CompileSpec, st.text(), st.binary())),
)  # fmt: skip
_plans = st.builds(
    ExecutionPlan, st.text(), values=st.lists(_values), inputs=st.lists(_int32), chains=st.lists(_calls),
    operators=st.lists(st.builds(Operator, st.text(), st.text())), delegates=st.lists(_delegates),
    non_const_buffer_sizes=st.lists(st.integers(0, 2**63 - 1)),
)  # fmt: skip
_programs = st.builds(
    Program, st.integers(0, 2**32 - 1), st.lists(_plans, max_size=3),
    segments=st.lists(st.builds(DataSegment, _uint64, _uint64)),
    named_data=st.lists(st.builds(NamedData, st.text(), st.integers(0, 2**32 - 1))),
)  # fmt: skip


@given(_programs)
@settings(max_examples=60)
def test_what_is_written_is_read_again(program: Program) -> None:
    assert decode(Program, encode(program, IDENTIFIER), IDENTIFIER) == program


def test_alignment() -> None:
    """64-bit numbers lie at multiples of eight, which some processors insist on."""
    number = 0x0123456789ABCDEF
    data = encode(Program(segments=[DataSegment(number)], named_data=[NamedData("odd")]), IDENTIFIER)
    assert data.index(number.to_bytes(8, "little")) % 8 == 0


def test_wrong_identifier() -> None:
    with pytest.raises(FlatbufferError, match="identifier is b'ET12', not 'XN01'"):
        decode(Program, encode(Program(), IDENTIFIER), "XN01")


def test_unknown_member_of_a_union() -> None:
    data = encode(Program(execution_plan=[ExecutionPlan(values=[EValue(Int(5))])]), IDENTIFIER)
    messages = []
    for place in range(8, len(data)):
        if data[place] == 2:  # the second member
            try:
                decode(Program, data[:place] + b"\x63" + data[place + 1 :], IDENTIFIER)
            except FlatbufferError as error:
                messages.append(str(error))
    assert "val is of type 99, which is not known to this version" in messages


def test_tables_that_are_shared_a_billion_times() -> None:
    """Vectors of a thousand offsets to one table, three deep: small as bytes, huge as objects."""
    builder = flatbuffers.Builder()
    place, slots = _table(builder, {}), {"instructions": 2, "chains": 5, "execution_plan": 1}
    for slot in slots.values():
        builder.StartVector(4, 1000, 4)
        for _ in range(1000):
            builder.PrependUOffsetTRelative(place)
        place = _table(builder, {slot: builder.EndVector()})
    builder.Finish(place, file_identifier=IDENTIFIER.encode())
    with pytest.raises(FlatbufferError, match=r"again and again|more than fit"):
        decode(Program, builder.Output(), IDENTIFIER)


def _table(builder: flatbuffers.Builder, offsets: dict[int, int]) -> int:
    builder.StartObject(8)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    return int(builder.EndObject())


@pytest.mark.parametrize("seed", range(40))
def test_damage_is_refused_or_read(seed: int) -> None:
    rng = random.Random(seed)
    plan = ExecutionPlan("m", values=[EValue(Tensor(6, sizes=[1, 2], dim_order=b"\0\1"))] * 5, inputs=[0, 1])
    data = bytearray(encode(Program(execution_plan=[plan] * 4), IDENTIFIER))
    for _ in range(50):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        damaged = damaged[: rng.randint(0, len(damaged))] if rng.random() < 0.3 else damaged
        with contextlib.suppress(FlatbufferError):
            decode(Program, bytes(damaged), IDENTIFIER)
