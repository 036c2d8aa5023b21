"""FlatBuffers to and from dataclasses: a table is a class, and its fields stand in the order of the schema.

    @dataclass
    class KernelCall(Table):
        op_index: int = scalar("i")
        args: list[int] = scalars("i")

Type codes are those of `struct`. The writer is the `flatbuffers` package; the reader is a few lines of our own,
since what it reads may be damaged or hostile: whatever does not lie in the buffer is an error, and a buffer that
refers to the same tables again and again is refused before it fills the memory.

Source: flatbuffers.dev, "FlatBuffers internals".
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import flatbuffers
import numpy as np
from flatbuffers import number_types

Kind = Literal["scalar", "scalars", "string", "table", "tables", "union", "deprecated"]
T = TypeVar("T", bound="Table")

_FLAGS = {
    "?": number_types.BoolFlags, "b": number_types.Int8Flags, "B": number_types.Uint8Flags,
    "h": number_types.Int16Flags, "i": number_types.Int32Flags, "I": number_types.Uint32Flags,
    "q": number_types.Int64Flags, "Q": number_types.Uint64Flags, "f": number_types.Float32Flags,
    "d": number_types.Float64Flags,
}  # fmt: skip
_UNION_TYPE = "B"


class FlatbufferError(ValueError):
    """A buffer that is not one of the tables asked for."""


@dataclass(frozen=True)
class Field:
    """How a field is stored.

    Attributes:
        kind: `tables` is a vector of tables, `scalars` one of numbers; `union` takes two slots, and `deprecated`
            one that is neither written nor read.
        code: Of a number, as `struct` spells it.
        types: The table, or the members of a union in order.
    """

    kind: Kind
    code: str = ""
    types: tuple[type[Table], ...] = ()


class Table:
    """Base of all tables; subclasses are dataclasses."""


def scalar(code: str, default: float = 0) -> Any:
    """A number; it is not stored where it has the default of the schema."""
    return dataclasses.field(default=default, metadata={"flat": Field("scalar", code)})


def scalars(code: str) -> Any:
    """A vector of numbers; bytes where the code is B."""
    factory = bytes if code == "B" else list
    return dataclasses.field(default_factory=factory, metadata={"flat": Field("scalars", code)})


def string() -> Any:
    """A string."""
    return dataclasses.field(default="", metadata={"flat": Field("string")})


def table(kind: type[Table]) -> Any:
    """A table, or None."""
    return dataclasses.field(default=None, metadata={"flat": Field("table", types=(kind,))})


def tables(kind: type[Table], *, optional: bool = False) -> Any:
    """A vector of tables; an optional one is None where it is not stored."""
    flat = {"flat": Field("tables", types=(kind,))}
    if optional:
        return dataclasses.field(default=None, metadata=flat)
    return dataclasses.field(default_factory=list, metadata=flat)


def union(*members: type[Table]) -> Any:
    """One of several tables, or None."""
    return dataclasses.field(default=None, metadata={"flat": Field("union", types=members)})


def deprecated() -> Any:
    """The place of a field that is no longer used."""
    return dataclasses.field(default=None, init=False, repr=False, metadata={"flat": Field("deprecated")})


@dataclass(frozen=True)
class _Slot:
    """A field of a class, and its place in the schema."""

    name: str
    number: int
    default: Any
    field: Field


_known_slots: dict[type[Table], tuple[tuple[_Slot, ...], int]] = {}


def _slots(kind: type[Table]) -> tuple[tuple[_Slot, ...], int]:
    """Fields of a table, and how many slots they take."""
    if kind in _known_slots:
        return _known_slots[kind]
    found, number = [], 0
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]  # every table is a dataclass
        field: Field = each.metadata["flat"]
        number += field.kind == "union"
        found.append(_Slot(each.name, number, each.default, field))
        number += 1
    _known_slots[kind] = tuple(found), number
    return _known_slots[kind]


def encode(root: Table, identifier: str) -> bytes:
    """A table as a buffer.

    Args:
        root: What to write.
        identifier: Of the file, four characters.
    """
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(_write(builder, root), file_identifier=identifier.encode("ascii"))
    return bytes(builder.Output())


def _write(builder: Any, item: Table) -> int:
    slots, count = _slots(type(item))
    offsets = {slot.number: _write_field(builder, slot.field, getattr(item, slot.name)) for slot in slots}
    builder.StartObject(count)
    for slot in slots:
        value, field = getattr(item, slot.name), slot.field
        if field.kind == "scalar":
            builder.PrependSlot(_FLAGS[field.code], slot.number, value, slot.default)
        elif offsets[slot.number] is not None:
            if field.kind == "union":
                builder.PrependUint8Slot(slot.number - 1, 1 + field.types.index(type(value)), 0)
            builder.PrependUOffsetTRelativeSlot(slot.number, offsets[slot.number], 0)
    return int(builder.EndObject())


def _write_field(builder: Any, field: Field, value: Any) -> int | None:
    """What a field refers to, written; None where it refers to nothing."""
    if field.kind in ("scalar", "deprecated") or value is None:
        return None
    if field.kind == "string":
        return int(builder.CreateString(value)) if value else None
    if field.kind in ("table", "union"):
        return _write(builder, value)
    if field.kind == "tables":
        places = [_write(builder, item) for item in value]
        builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            builder.PrependUOffsetTRelative(place)
        return int(builder.EndVector())
    if field.code == "B":
        return int(builder.CreateByteVector(bytes(value)))
    return int(builder.CreateNumpyVector(np.array(value, np.dtype(field.code).newbyteorder("<"))))


def decode(kind: type[T], data: Sequence[int] | bytes | memoryview, identifier: str) -> T:
    """The inverse of `encode`; fields that a newer schema has added are left out.

    Args:
        kind: The root.
        data: The buffer, from its first byte.
        identifier: That it must have.

    Raises:
        FlatbufferError: The buffer is something else, or damaged.
    """
    buffer = bytes(data)
    found = buffer[4:8]
    if found != identifier.encode("ascii"):
        raise FlatbufferError(f"the file identifier is {found!r}, not {identifier!r}")
    reader = _Reader(buffer)
    try:
        return reader.table(kind, reader.offset(0))
    except (struct.error, UnicodeDecodeError) as error:
        raise FlatbufferError(f"not a valid {kind.__name__}: {error}") from error


class _Reader:
    """Reads tables of one buffer."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        # A table has four bytes at least, so that a buffer with more of them has some several times.
        self._tables_left = len(data) // 4

    def offset(self, place: int) -> int:
        """Where an offset at a place points to."""
        (distance,) = self._unpack("I", place)
        return int(place + distance)

    def _unpack(self, code: str, place: int) -> tuple[Any, ...]:
        if place < 0:
            raise FlatbufferError("an offset points before the buffer")
        return struct.unpack_from(f"<{code}", self._data, place)

    def table(self, kind: type[T], place: int) -> T:
        """The table at a place."""
        self._tables_left -= 1
        if self._tables_left < 0:
            raise FlatbufferError("it refers to the same tables again and again")
        (distance,) = self._unpack("i", place)
        vtable = place - distance
        (size,) = self._unpack("H", vtable)
        slots, _ = _slots(kind)
        found: dict[str, Any] = {}
        for slot in slots:
            if slot.field.kind == "deprecated" or 4 + 2 * slot.number + 2 > size:
                continue
            (relative,) = self._unpack("H", vtable + 4 + 2 * slot.number)
            if relative:
                found[slot.name] = self._field(slot, place + relative, place, vtable)
        return kind(**found)

    def _field(self, slot: _Slot, place: int, start: int, vtable: int) -> Any:
        field = slot.field
        if field.kind == "scalar":
            return self._unpack(field.code, place)[0]
        target = self.offset(place)
        if field.kind == "table":
            return self.table(field.types[0], target)
        if field.kind == "union":
            return self._member(slot, target, start, vtable)
        (count,) = self._unpack("I", target)
        if field.kind == "tables":
            if count > self._tables_left:
                raise FlatbufferError(f"{slot.name} has {count} tables, more than fit in the buffer")
            return [self.table(field.types[0], self.offset(target + 4 + 4 * index)) for index in range(count)]
        if field.kind == "string" or field.code == "B":
            end = target + 4 + count
            if end > len(self._data):
                raise FlatbufferError(f"{slot.name} ends after the buffer")
            raw = self._data[target + 4 : end]
            return raw.decode("utf-8") if field.kind == "string" else raw
        if count * struct.calcsize(f"<{field.code}") > len(self._data):
            raise FlatbufferError(f"{slot.name} ends after the buffer")
        return list(self._unpack(f"{count}{field.code}", target + 4))

    def _member(self, slot: _Slot, target: int, start: int, vtable: int) -> Table:
        (relative,) = self._unpack("H", vtable + 4 + 2 * (slot.number - 1))
        number = self._unpack(_UNION_TYPE, start + relative)[0] if relative else 0
        if not 0 < number <= len(slot.field.types):
            raise FlatbufferError(f"{slot.name} is of type {number}, which is not known to this version")
        return self.table(slot.field.types[number - 1], target)
