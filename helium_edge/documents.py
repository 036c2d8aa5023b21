"""Small documents that somebody else wrote (JSON, YAML): read with every size capped before it costs anything.

Whoever reads one names the file and chooses the error; here it is only decided what is a document at all.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MAX_LINE = 300
"""Longest line taken over from the message of a library."""


class DocumentError(ValueError):
    """A file is no document of its kind.

    Args:
        message: One line, without the name of the file.
        hint: What to do about it, where the cause says so; empty otherwise.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def read_document(path: Path, limit: int, *, follow_links: bool = True) -> bytes:
    """Read a whole regular file of at most `limit` bytes.

    Raises:
        DocumentError: It is no regular file, or too large.
        OSError: It cannot be opened or read; also for a link when `follow_links` is false.
    """
    # Without waiting for a writer should this be a FIFO, and checked when open, so that nothing comes in between.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow_links:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError("is not a regular file")
        if status.st_size > limit:
            raise DocumentError(f"{status.st_size} bytes are too many, the limit is {limit}")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:  # it grew, or tells no size
        raise DocumentError(f"more than {limit} bytes are too many")
    return data


_MARKS = {b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""How a byte order mark is spelled, and the encoding that it belongs to."""

MAX_ITEMS = 200_000
"""Values of a JSON text; each takes about a hundred bytes in memory, however few it takes in the file."""


def parse_json(data: bytes, *, constants: bool = True, max_items: int = MAX_ITEMS) -> Any:
    """Parse UTF-8 JSON in which no object gives a key twice, every text is Unicode and every number a float64.

    Args:
        data: The text.
        constants: Whether the spellings NaN and Infinity, which are no JSON, are taken as Python takes them.
        max_items: Upper bound of commas and opening brackets, also within strings.

    Raises:
        DocumentError: Not such a text, nested too deeply, or of too many values.
    """
    mark = next((name for start, name in _MARKS.items() if data.startswith(start)), None)
    if mark is not None:
        raise DocumentError(
            f"not readable as JSON: begins with a byte order mark ({mark})",
            hint="an editor saved it with a byte order mark: save it as UTF-8 without one",
        )
    items = sum(data.count(mark) for mark in b",[{")
    if items > max_items:
        raise DocumentError(f"{items} values are too many, the limit is {max_items}")
    # Asking for each number costs more than seeing that none needs it.
    long = _LONG_NUMBER.search(data) is not None
    try:
        found = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_distinct_keys,
            parse_constant=None if constants else _no_constant,
            parse_float=_float if long else None,
            parse_int=_int if long else None,
        )
        if long:
            _refuse_beyond(found, "")
        if _SURROGATE.search(data):
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise DocumentError("not readable as JSON: nested too deeply") from error
    except UnicodeEncodeError as error:
        raise DocumentError("not readable as JSON: half of a surrogate pair is not valid Unicode") from error
    except ValueError as error:
        raise DocumentError(f"not readable as JSON: {first_line(error)}") from error
    return found


MAX_YAML_BRACKETS = 800
"""Opening brackets of a YAML text, also within strings."""


def parse_yaml(text: str) -> Any:
    """Parse YAML of plain values: no aliases, no tags that make objects, no key given twice.

    Raises:
        DocumentError: Not such a text, nested too deeply, or of too many brackets.
    """
    # Each open bracket is looked at again for every further token.
    nested = text.count("[") + text.count("{")
    if nested > MAX_YAML_BRACKETS:
        raise DocumentError(f"{nested} brackets are too many, the limit is {MAX_YAML_BRACKETS}")
    try:
        return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader
    except RecursionError as error:
        raise DocumentError("not valid YAML: nested too deeply") from error
    # Besides its own class: ValueError from dates and numbers, the others from keys and tags that fit no value.
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        problem = getattr(error, "problem", None) or first_line(error)
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise DocumentError(f"not valid YAML{line}: {problem}") from error


def shorten(name: str) -> str:
    """Return a name taken from a file, fit for a message: printable and of bounded length."""
    shown = name if name.isprintable() else ascii(name)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def first_line(error: BaseException) -> str:
    """Return the first line of a foreign error's message, or its class when it has none.

    A library may quote what it was given: characters that are not printable become escapes, and of a line longer
    than `MAX_LINE` both ends are kept, the last of which usually says where.
    """
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE // 2]} ... {line[-MAX_LINE // 2 :]}"


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader without aliases (no expansion bombs) and without duplicate keys (no silent override)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    problem = f"the key {shorten(key.value)!r} stands twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                keys.add(key.value)
        return super().construct_mapping(node, deep)


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {shorten(key)!r} stands twice")
        result[key] = value
    return result


_LONG_NUMBER = re.compile(rb"[0-9]{300}|[eE]\+?[0-9]{3}")
"""Where a number may lie beyond float64, which ends at 1.8e308."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class _Beyond:
    """A number that float64 does not have, until the place of it is known."""

    digits: str


def _float(digits: str) -> float | _Beyond:
    value = float(digits)
    return value if math.isfinite(value) else _Beyond(digits)


def _int(digits: str) -> int | _Beyond:
    return int(digits) if math.isfinite(float(digits)) else _Beyond(digits)


def _refuse_beyond(value: Any, place: str) -> None:
    if isinstance(value, _Beyond):
        raise DocumentError(f"{place.removeprefix('.') or 'a number'} = {shorten(value.digits)} is beyond float64")
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_beyond(inner, f"{place}.{shorten(key)}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_beyond(inner, f"{place}[{index}]")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
