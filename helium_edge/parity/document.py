"""The JSON document of a parity run, as files hold it: its schema, and reading one back.

`parity.schema.json` is the contract; docs/parity.md explains it.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from pathlib import Path
from typing import Any

import jsonschema

from helium_edge.documents import DocumentError, parse_json
from helium_edge.documents import read_document as read_bytes
from helium_edge.errors import InputError
from helium_edge.parity.report import SCHEMA

Document = dict[str, Any]
"""A parity document: plain JSON data of `ParityReport.to_json`."""

SCHEMA_FILE = "parity.schema.json"
MAJOR = 2
MAX_BYTES = 64 << 20


@functools.cache
def schema_text() -> str:
    """The JSON Schema of the document, as it ships with the package."""
    return importlib.resources.files(__package__).joinpath(SCHEMA_FILE).read_text(encoding="utf-8")


def read_document(path: Path) -> Document:
    """Read a stored document: the document itself, or what `helium-edge parity --json` printed.

    Raises:
        InputError: Unreadable, no parity document, of another major version, or against the schema.
    """
    try:
        data = parse_json(read_bytes(path, MAX_BYTES))
    except OSError as error:
        raise InputError(f"{path}: not readable: {error.strerror}") from error
    except DocumentError as error:
        raise InputError(f"{path}: {error}") from error
    if isinstance(data, dict) and "schema" not in data:
        if "error" in data and "parity" not in data:
            raise InputError(f"{path}: holds an error and no figures{_error_of(data)}")
        data = data.get("parity", data)
    return check_document(data, where=str(path))


def check_document(data: Any, *, where: str) -> Document:
    """Check that data is a parity document of this major version.

    Args:
        data: Parsed JSON.
        where: Names its file in messages.

    Raises:
        InputError: It is not; the first field that is wrong is named.
    """
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InputError(
            f'{where}: not a parity document: "schema" must be {SCHEMA!r}',
            hint="write one with `helium-edge parity BUNDLE --json > FILE`",
        )
    version = data.get("schema_version")
    major = version.partition(".")[0] if isinstance(version, str) else ""
    if major != str(MAJOR):
        newer = major.isdecimal() and int(major) > MAJOR
        raise InputError(
            f"{where}: parity document of version {str(version)[:20]}; this helium-edge reads {MAJOR}.x",
            hint="pip install --upgrade helium-edge" if newer else "run `helium-edge parity` again",
        )
    error = jsonschema.exceptions.best_match(_validator().iter_errors(data))
    if error is not None:
        place = error.json_path.removeprefix("$").removeprefix(".") or "top level"
        problem = error.message if len(error.message) <= 120 else f"{error.message[:117]}..."
        raise InputError(f"{where}: {place}: {problem}")
    return data


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(schema_text()))


def _error_of(data: dict[str, Any]) -> str:
    """What a failed command printed instead of a document."""
    error = data["error"]
    return f": {error['message']}" if isinstance(error, dict) and "message" in error else ""
