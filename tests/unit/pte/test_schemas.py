"""Our tables against the schemas that come with executorch: a field that moved would be read as another."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from helium_edge.pte import executorch_schema, xnnpack_schema
from helium_edge.pte.flatbuffer import Field, Table

_SCALARS = {
    "bool": "?", "byte": "b", "ubyte": "B", "short": "h", "int": "i", "int32": "i", "uint": "I", "uint32": "I",
    "long": "q", "int64": "q", "uint64": "Q", "float": "f", "double": "d",
    "ScalarType": "b", "TensorShapeDynamism": "b", "TensorDataLocation": "b", "DataLocation": "b",
    "DeviceType": "b", "XNNDatatype": "h",
}  # fmt: skip
_OF_OURS = {"_XNNNode2x1": "Binary", "_XNNNode1x1": "Unary", "_XNNCat": "Concatenation"}


def _schema(*parts: str) -> str:
    spec = importlib.util.find_spec("executorch")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("needs the schemas that come with executorch")
    text = Path(spec.submodule_search_locations[0]).joinpath(*parts).read_text(encoding="utf-8")
    return re.sub(r"//.*", "", text)


def _published(text: str) -> dict[str, list[tuple[str, str]]]:
    """Name and type of each field, in order, by table."""
    return {
        _OF_OURS.get(name, name): re.findall(r"(\w+)\s*:\s*([^;]+?)\s*;", body)
        for name, body in re.findall(r"\btable\s+(\w+)\s*{([^}]*)}", text)
    }


def _unions(text: str) -> dict[str, list[str]]:
    return {name: re.findall(r"(\w+)(?:\s*:\s*\w+)?\s*,?", body) for name, body in _bodies(text, "union")}


def _enums(text: str) -> dict[str, dict[str, int]]:
    return {
        name: {member: int(value) for member, value in re.findall(r"(\w+)\s*=\s*(\d+)", body)}
        for name, body in re.findall(r"\benum\s+(\w+)\s*:\s*\w+\s*{([^}]*)}", text)
    }


def _bodies(text: str, word: str) -> list[tuple[str, str]]:
    return [
        (name, re.sub(r"(\w+)\s*:\s*\w+", r"\1", body))
        for name, body in re.findall(rf"\b{word}\s+(\w+)\s*{{([^}}]*)}}", text)
    ]


def _expected(kind: str, unions: dict[str, list[str]]) -> tuple[str, str, list[str]]:
    """Kind, code and types of a field of ours for a type of the schema."""
    kind = re.sub(r"\s*=.*", "", kind)
    plain = re.sub(r"\s*\(.*\)", "", kind).strip()
    if "deprecated" in kind:
        return "deprecated", "", []
    if plain == "string":
        return "string", "", []
    if plain in unions:
        return "union", "", unions[plain]
    inner = re.fullmatch(r"\[(\w+)\]", plain)
    name = inner[1] if inner else plain
    if name in _SCALARS:
        return ("scalars" if inner else "scalar"), _SCALARS[name], []
    return ("tables" if inner else "table"), "", [name]


def _ours(module: ModuleType) -> dict[str, type[Table]]:
    found = inspect.getmembers(module, lambda each: inspect.isclass(each) and each.__module__ == module.__name__)
    return {name: each for name, each in found if issubclass(each, Table)}


@pytest.mark.parametrize(
    ("module", "path"),
    [
        (executorch_schema, ("schema", "program.fbs")),
        (xnnpack_schema, ("backends", "xnnpack", "serialization", "schema.fbs")),
    ],
)
def test_tables_are_those_of_the_schema(module: ModuleType, path: tuple[str, ...]) -> None:
    text = _schema(*path)
    published, unions = _published(text), _unions(text)
    for name, kind in _ours(module).items():
        if kind.__mro__[1] is not Table:  # a node by another name
            continue
        fields = [(each.name, each.metadata["flat"]) for each in dataclasses.fields(kind)]
        expected = published[name]
        assert [field for field, _ in fields] == [field for field, _ in expected][: len(fields)], name
        for (field, flat), (_, spelled) in zip(fields, expected, strict=False):
            assert isinstance(flat, Field)
            found = flat.kind, flat.code, [each.__name__ for each in flat.types]
            assert found == _expected(spelled, unions), f"{name}.{field}"
    assert f'file_identifier "{module.IDENTIFIER}"' in text


def test_nodes_have_the_fields_of_their_kind() -> None:
    text = _schema("backends", "xnnpack", "serialization", "schema.fbs")
    (body,) = re.findall(r"union XNodeUnion {([^}]*)}", text)
    kinds = dict(re.findall(r"(\w+)\s*:\s*(\w+)", body))
    for name, kind in _ours(xnnpack_schema).items():
        if kind.__mro__[1] is not Table:
            assert kind.__mro__[1].__name__ == _OF_OURS[kinds[name]], name


def test_numbers_of_types() -> None:
    types = _enums(_schema("schema", "scalar_type.fbs"))["ScalarType"]
    assert {each.name: each.value for each in executorch_schema.ScalarType}.items() <= types.items()
    text = _schema("backends", "xnnpack", "serialization", "schema.fbs")
    datatypes = {name.removeprefix("xnn_datatype_").upper(): n for name, n in _enums(text)["XNNDatatype"].items()}
    assert {each.name: each.value for each in xnnpack_schema.Datatype} == datatypes
