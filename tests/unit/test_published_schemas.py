"""The documents that foreign programs read change only together with their version.

A new field takes a new minor version, any other change a new major one: raise `SCHEMA_VERSION`, say so in the
document's page and in the change log, and write the new hash here.
"""

from __future__ import annotations

import hashlib
import importlib
import json

import jsonschema
import pytest

PUBLISHED = {
    "bundle": ("1.7", "c80c24d93bcdf609"),
    "parity": ("2.1", "87b58373d84184d3"),
    "bench": ("1.0", "aebd0f02e0558e44"),
    "evaluate": ("1.0", "e40930fa660eafd1"),
    "sweep": ("1.0", "21d06c1acacbe933"),
}


@pytest.mark.parametrize("package", PUBLISHED)
def test_a_document_changes_with_its_version(package: str) -> None:
    text = importlib.import_module(f"helium_edge.{package}.schema").document_schema()
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    found = schema["$id"].rsplit(":", 1)[1], hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
    assert found == PUBLISHED[package], __doc__
