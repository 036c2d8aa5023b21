"""The JSON Schema of the manifest, generated from its models.

`python -m helium_edge.bundle.schema` rewrites `schema.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helium_edge.bundle.manifest import SCHEMA_FILE, SCHEMA_NAME, SCHEMA_VERSION, Manifest
from helium_edge.bundle.seal import SEAL

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def generate_schema() -> str:
    """The text that `schema.json` must have.

    Unknown fields are allowed everywhere: a later minor version may add some.
    """
    schema = Manifest.model_json_schema(mode="validation")
    for definition in (schema, *schema["$defs"].values()):
        _tidy(definition)
    schema |= {
        "$schema": DIALECT,
        "$id": f"urn:{SCHEMA_NAME.replace('/', ':')}:{SCHEMA_VERSION}",
        "title": "helium-edge.json",
    }
    # Not a field of the model: it is made of all others when they are written.
    schema["properties"][SEAL] = {
        "description": "sha256 of this file with sixty-four zeros in the place of these digits.",
        "pattern": "^[0-9a-f]{64}$",
        "type": "string",
    }
    # The version is checked apart, with a message of its own; a file without both fields is no manifest.
    schema["required"] = sorted({*schema["required"], "schema", "schema_version", "files"})
    return json.dumps(schema, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def _tidy(definition: dict[str, Any]) -> None:
    """Remove titles that only repeat a name, and the line breaks of descriptions."""
    definition.pop("title", None)
    for part in (definition, *definition.get("properties", {}).values()):
        if "description" in part:
            part["description"] = " ".join(part["description"].split())
    for field in definition.get("properties", {}).values():
        field.pop("title", None)


def main() -> None:
    """Rewrite `schema.json` in the source tree."""
    Path(__file__).with_name(SCHEMA_FILE).write_text(generate_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
