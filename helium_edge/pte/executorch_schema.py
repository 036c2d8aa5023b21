"""The tables of ExecuTorch's `.pte`, in the terms and the order of its schema.

Read: schema/program.fbs and schema/scalar_type.fbs of executorch 1.5.1. FlatBuffers keep their meaning when fields
are added at the end, which is how that schema grows; `tests/unit/pte/test_schemas.py` compares with the installed
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from helium_edge.pte.flatbuffer import Table, scalar, scalars, string, table, tables, union

IDENTIFIER = "ET12"
EXECUTORCH_VERSION = "1.5"
"""The release that these tables and our operators' arguments are of; no older one is known to run our programs."""


class ScalarType(IntEnum):
    """Types of elements that we write or read."""

    BYTE = 0
    CHAR = 1
    SHORT = 2
    INT = 3
    LONG = 4
    HALF = 5
    FLOAT = 6
    DOUBLE = 7
    BOOL = 11
    BFLOAT16 = 15


class DataLocation(IntEnum):
    """Where the data of a delegate lies."""

    INLINE = 0
    SEGMENT = 1


@dataclass
class ContainerMetadata(Table):
    """How inputs and outputs are nested; empty where they are not."""

    encoded_inp_str: str = string()
    encoded_out_str: str = string()


@dataclass
class AllocationDetails(Table):
    """Place of a tensor in planned memory."""

    memory_id: int = scalar("I")
    memory_offset_low: int = scalar("I")
    memory_offset_high: int = scalar("I")


@dataclass
class ExtraTensorInfo(Table):
    """What few tensors need."""

    mutable_data_segments_idx: int = scalar("Q")
    fully_qualified_name: str = string()
    location: int = scalar("b")
    device_type: int = scalar("b")
    device_index: int = scalar("b")


@dataclass
class Tensor(Table):
    """A tensor: constant by its `data_buffer_idx`, planned by its `allocation_info`, or handed in."""

    scalar_type: int = scalar("b")
    storage_offset: int = scalar("i")
    sizes: list[int] = scalars("i")
    dim_order: bytes = scalars("B")
    requires_grad: bool = scalar("?")
    data_buffer_idx: int = scalar("I")
    allocation_info: AllocationDetails | None = table(AllocationDetails)
    layout: int = scalar("b")
    shape_dynamism: int = scalar("b")
    extra_tensor_info: ExtraTensorInfo | None = table(ExtraTensorInfo)


@dataclass
class Null(Table):
    """Nothing: an argument that is left out."""


@dataclass
class Int(Table):
    """An integer."""

    int_val: int = scalar("q")


@dataclass
class Bool(Table):
    """A truth value."""

    bool_val: bool = scalar("?")


@dataclass
class Double(Table):
    """A number."""

    double_val: float = scalar("d")


@dataclass
class String(Table):
    """A text."""

    string_val: str = string()


@dataclass
class IntList(Table):
    """Integers, by the values that hold them."""

    items: list[int] = scalars("q")


@dataclass
class DoubleList(Table):
    """Numbers."""

    items: list[float] = scalars("d")


@dataclass
class BoolList(Table):
    """Truth values."""

    items: list[bool] = scalars("?")


@dataclass
class TensorList(Table):
    """Tensors, by value."""

    items: list[int] = scalars("i")


@dataclass
class OptionalTensorList(Table):
    """Tensors or nothing, by value."""

    items: list[int] = scalars("i")


Value = (
    Null
    | Int
    | Bool
    | Double
    | Tensor
    | String
    | IntList
    | DoubleList
    | BoolList
    | TensorList
    | OptionalTensorList
)


@dataclass
class EValue(Table):
    """A value of a method."""

    val: Value | None = union(
        Null, Int, Bool, Double, Tensor, String, IntList, DoubleList, BoolList, TensorList, OptionalTensorList
    )


@dataclass
class Operator(Table):
    """A kernel, as the runtime's registry knows it."""

    name: str = string()
    overload: str = string()


@dataclass
class KernelCall(Table):
    """Runs an operator on values."""

    op_index: int = scalar("i")
    args: list[int] = scalars("i")


@dataclass
class DelegateCall(Table):
    """Runs a delegate on values."""

    delegate_index: int = scalar("i")
    args: list[int] = scalars("i")


@dataclass
class MoveCall(Table):
    """Moves a value; not used by us."""

    move_from: int = scalar("i")
    move_to: int = scalar("i")


@dataclass
class JumpFalseCall(Table):
    """Jumps; not used by us."""

    cond_value_index: int = scalar("i")
    destination_instruction: int = scalar("i")


@dataclass
class FreeCall(Table):
    """Frees a tensor; not used by us."""

    value_index: int = scalar("i")


Call = KernelCall | DelegateCall | MoveCall | JumpFalseCall | FreeCall


@dataclass
class Instruction(Table):
    """A step of a method."""

    instr_args: Call | None = union(KernelCall, DelegateCall, MoveCall, JumpFalseCall, FreeCall)


@dataclass
class Frame(Table):
    """A place in the source of an instruction."""

    filename: str = string()
    lineno: int = scalar("i")
    name: str = string()
    context: str = string()


@dataclass
class FrameList(Table):
    """A stack trace."""

    items: list[Frame] = tables(Frame)


@dataclass
class BackendDelegateDataReference(Table):
    """Where the data of a delegate lies: `index` in `backend_delegate_data`, or in `segments`."""

    location: int = scalar("b")
    index: int = scalar("I")


@dataclass
class CompileSpec(Table):
    """A note for a backend."""

    key: str = string()
    value: bytes = scalars("B")


@dataclass
class BackendDelegate(Table):
    """A part of a method that a backend runs."""

    id: str = string()
    processed: BackendDelegateDataReference | None = table(BackendDelegateDataReference)
    compile_specs: list[CompileSpec] = tables(CompileSpec)


@dataclass
class Chain(Table):
    """Instructions in order."""

    inputs: list[int] = scalars("i")
    outputs: list[int] = scalars("i")
    instructions: list[Instruction] = tables(Instruction)
    stacktrace: list[FrameList] | None = tables(FrameList, optional=True)


@dataclass
class NonConstBufferDevice(Table):
    """The device of planned memory; absent on processors."""

    buffer_idx: int = scalar("i")
    device_type: int = scalar("b")
    device_index: int = scalar("b")


@dataclass
class ExecutionPlan(Table):
    """A method."""

    name: str = string()
    container_meta_type: ContainerMetadata | None = table(ContainerMetadata)
    values: list[EValue] = tables(EValue)
    inputs: list[int] = scalars("i")
    outputs: list[int] = scalars("i")
    chains: list[Chain] = tables(Chain)
    operators: list[Operator] = tables(Operator)
    delegates: list[BackendDelegate] = tables(BackendDelegate)
    non_const_buffer_sizes: list[int] = scalars("q")
    non_const_buffer_device: list[NonConstBufferDevice] | None = tables(NonConstBufferDevice, optional=True)


@dataclass
class Buffer(Table):
    """Constant data within the FlatBuffer, as old files have it."""

    storage: bytes = scalars("B")


@dataclass
class BackendDelegateInlineData(Table):
    """Data of a delegate within the FlatBuffer."""

    data: bytes = scalars("B")


@dataclass
class DataSegment(Table):
    """A piece of the file after the FlatBuffer; `offset` counts from the first one."""

    offset: int = scalar("Q")
    size: int = scalar("Q")


@dataclass
class SubsegmentOffsets(Table):
    """Where each constant starts in a segment; the first is that of tensors which are not constant."""

    segment_index: int = scalar("I")
    offsets: list[int] = scalars("Q")


@dataclass
class NamedData(Table):
    """A segment by the name under which delegates ask for it."""

    key: str = string()
    segment_index: int = scalar("I")


@dataclass
class Program(Table):
    """A `.pte`."""

    version: int = scalar("I")
    execution_plan: list[ExecutionPlan] = tables(ExecutionPlan)
    constant_buffer: list[Buffer] = tables(Buffer)
    backend_delegate_data: list[BackendDelegateInlineData] = tables(BackendDelegateInlineData)
    segments: list[DataSegment] = tables(DataSegment)
    constant_segment: SubsegmentOffsets | None = table(SubsegmentOffsets)
    mutable_data_segments: list[SubsegmentOffsets] | None = tables(SubsegmentOffsets, optional=True)
    named_data: list[NamedData] = tables(NamedData)
