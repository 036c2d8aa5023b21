"""JSON documents that models describe: numbers as they are written, the JSON Schema, and what is wrong with one.

A document's model is its contract: `generate_schema` makes the published JSON Schema of it, and `first_problem`
says in one line, in the words of JSON Schema, why data does not fit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, Strict, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DIGITS = 6
"""Significant digits of a measured figure in a document."""

LARGEST = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly."""

_T = TypeVar("_T")
Items = Annotated[tuple[_T, ...], Strict(strict=False)]
"""A tuple that may be given as a list; its items stay strictly typed."""

Size = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]


class StrictModel(BaseModel):
    """Base of what people write, as recipes: frozen, strictly typed, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Part(BaseModel):
    """Base of the parts of a document: frozen, strictly typed; fields of a later minor version are kept."""

    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        json_schema_extra=lambda schema: _without_defaults(schema),
    )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data; fields that were not given are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def significant(value: float, digits: int) -> float | None:
    """Round to significant digits; None for NaN and infinity, which JSON cannot say."""
    return float(f"{value:.{digits - 1}e}") if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """Plain JSON data of nested mappings and sequences: floats to 6 significant digits, null for NaN, infinity."""
    if isinstance(value, float):
        return significant(value, DIGITS)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


@dataclass(frozen=True)
class _Number:
    """How a number is checked, written and described; an int is kept as one.

    Attributes:
        least: The smallest that is allowed.
        most: The largest.
        rounded: Written with `DIGITS` significant digits.
        nullable: NaN and infinity are written as null, which is read as well.
    """

    least: float | None = None
    most: float | None = None
    rounded: bool = True
    nullable: bool = True

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._check,
            serialization=core_schema.plain_serializer_function_ser_schema(plain if self.rounded else _same),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        kind: dict[str, Any] = {"type": ["number", "null"] if self.nullable else "number"}
        bounds = {"minimum": self.least, "maximum": self.most}
        return kind | {name: value for name, value in bounds.items() if value is not None}

    def _check(self, value: Any) -> Any:
        if value is None and self.nullable:
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise PydanticCustomError("float_type", "no number")
        if self.least is not None and value < self.least:
            raise PydanticCustomError("greater_than_equal", "too small", {"ge": self.least})
        if self.most is not None and value > self.most:
            raise PydanticCustomError("less_than_equal", "too large", {"le": self.most})
        return value


def _same(value: Any) -> Any:
    return value


Figure = Annotated[float, _Number()]
"""A measured figure; NaN and infinity are null in JSON."""
Positive = Annotated[float, _Number(least=0)]
"""The same, from 0 on."""
Share = Annotated[float, _Number(least=0, most=1)]
"""The same, from 0 to 1."""
Number = Annotated[float, _Number(rounded=False, nullable=False)]
"""A number that is written as it is."""


def generate_schema(model: type[BaseModel], *, name: str, version: str, title: str) -> dict[str, Any]:
    """The JSON Schema of a document.

    Args:
        model: Describes it.
        name: As in the document's field `schema`: "helium-edge/parity".
        version: As in its field `schema_version`.
        title: For people.
    """
    schema = model.model_json_schema(mode="validation", by_alias=True)
    for definition in (schema, *schema.get("$defs", {}).values()):
        _tidy(definition)
    return schema | {"$schema": DIALECT, "$id": f"urn:{name.replace('/', ':')}:{version}", "title": title}


def schema_text(schema: Mapping[str, Any]) -> str:
    """The text of a schema's file."""
    return json.dumps(schema, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def _without_defaults(schema: dict[str, Any]) -> None:
    """Leave out what says nothing of a document: values that a model has where a field is absent."""
    schema.pop("additionalProperties", None)
    for field in schema.get("properties", {}).values():
        field.pop("default", None)


def _tidy(definition: dict[str, Any]) -> None:
    """Remove titles that only repeat a name, and the line breaks of descriptions."""
    definition.pop("title", None)
    for part in (definition, *definition.get("properties", {}).values()):
        if "description" in part:
            part["description"] = " ".join(part["description"].split())
    for field in definition.get("properties", {}).values():
        field.pop("title", None)


_TYPES = {
    "int": "'integer'", "float": "'number', 'null'", "string": "'string'", "bool": "'boolean'", "list": "'array'",
    "tuple": "'array'", "dict": "'object'", "mapping": "'object'", "model": "'object'", "dataclass": "'object'",
}  # fmt: skip


def first_problem(error: ValidationError, document: Any) -> tuple[str, str]:
    """What is wrong first with a document.

    Args:
        error: What validating it raised.
        document: The parsed JSON.

    Returns:
        The place, `graphs[1].phase`, or `top level`; and the problem in one short line.
    """
    found = error.errors(include_url=False)[0]
    kind, context = found["type"], found.get("ctx", {})
    missing = kind in ("missing", "missing_argument")
    place = _place(found["loc"][:-1] if missing or kind == "extra_forbidden" else found["loc"], document)
    shown = shorten(found["input"])
    name = found["loc"][-1] if found["loc"] else ""
    problems = {
        "greater_than_equal": "{shown} is less than the minimum of {ge}",
        "greater_than": "{shown} is not above {gt}",
        "less_than_equal": "{shown} is greater than the maximum of {le}",
        "literal_error": "{shown} is not one of {expected}",
        "too_short": "{shown} should be non-empty",
        "string_too_short": "{shown} should be non-empty",
        "string_too_long": "{shown} is too long",
        "string_pattern_mismatch": "{shown} does not match {pattern!r}",
        "extra_forbidden": "{name!r} was unexpected",
        "missing": "{name!r} is a required property",
        "missing_argument": "{name!r} is a required property",
    }
    typed = kind.removesuffix("_type").removesuffix("_from_float").removesuffix("_parsing")
    if kind == "literal_error" and " or " not in str(context["expected"]):
        problem = f"{context['expected']} was expected"
    elif kind in problems:
        problem = problems[kind].format(shown=shown, name=name, **context)
    elif typed in _TYPES:
        problem = f"{shown} is not of type {_TYPES[typed]}"
    else:
        problem = found["msg"].removeprefix("Value error, ")
    return place, " ".join(problem.split())


def _place(path: Sequence[int | str], document: Any) -> str:
    """As JSONPath says it; what pydantic adds of its own, such as the branch of a union, is left out."""
    place, node = "", document
    for step in path:
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            break
        place += f"[{step}]" if isinstance(step, int) else f".{step}"
    return place.removeprefix(".") or "top level"


def shorten(value: Any) -> str:
    """A value for a message, of at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
