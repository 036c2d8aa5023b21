"""The JSON Schema of the manifest, generated from its models.

`python -m helium_edge.bundle.schema` rewrites `schema.json`.
"""

from __future__ import annotations

from pathlib import Path

from helium_edge.bundle.manifest import SCHEMA_FILE, SCHEMA_NAME, SCHEMA_VERSION, Manifest
from helium_edge.bundle.seal import SEAL
from helium_edge.schemas import generate_schema as generate
from helium_edge.schemas import schema_text


def generate_schema() -> str:
    """The text that `schema.json` must have.

    Unknown fields are allowed everywhere: a later minor version may add some.
    """
    schema = generate(Manifest, name=SCHEMA_NAME, version=SCHEMA_VERSION, title="helium-edge.json")
    # Not a field of the model: it is made of all others when they are written.
    schema["properties"][SEAL] = {
        "description": "sha256 of this file with sixty-four zeros in the place of these digits.",
        "pattern": "^[0-9a-f]{64}$",
        "type": "string",
    }
    # The version is checked apart, with a message of its own; a file without both fields is no manifest.
    schema["required"] = sorted({*schema["required"], "schema", "schema_version", "files"})
    return schema_text(schema)


def main() -> None:
    """Rewrite `schema.json` in the source tree."""
    Path(__file__).with_name(SCHEMA_FILE).write_text(generate_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
